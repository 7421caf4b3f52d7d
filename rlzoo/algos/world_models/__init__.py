"""World Models (Ha & Schmidhuber 2018), phase by phase."""
