from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rlzoo.cli.main import main
from rlzoo.run.statistics import bootstrap_interval, iqm
from rlzoo.study.compare import compare, find_runs, read_run


def make_run(
    path: Path,
    *,
    seed: int = 0,
    lr: float = 0.1,
    test: float | None = 1.0,
    status: str = "finished",
    values: tuple[float, ...] = (0.0, 1.0),
    algo: str = "dqn",
) -> Path:
    """A run directory as the training command writes it."""
    path.mkdir(parents=True)
    config = f"algo:\n  name: {algo}\n  lr: {lr}\nenv:\n  name: cartpole\nseed: {seed}\n"
    (path / "config.yaml").write_text(config)
    (path / "status.json").write_text(json.dumps({"status": status}))
    lines = [{"step": 500, "loss/td": 1.0}]
    lines += [{"step": 1000 * (i + 1), "eval/return_mean": v} for i, v in enumerate(values)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if test is not None:
        result = {"test": {"last": {"return": {"mean": -1.0}}, "best": {"return": {"mean": test}}}}
        (path / "result.json").write_text(json.dumps(result))
    return path


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("  ") if cell] for line in table.splitlines()]


def test_groups_by_everything_but_the_seed(tmp_path: Path) -> None:
    returns = [1.0, 5.0, 2.0, 3.0]
    for seed, value in enumerate(returns):
        make_run(tmp_path / f"a{seed}", seed=seed, lr=0.1, test=value, values=(0.0, value))
    make_run(tmp_path / "b", lr=0.2, test=9.0)
    result = compare([tmp_path])
    assert [(g.label, len(g.runs)) for g in result.groups] == [
        ("dqn cartpole algo.lr=0.1", 4),
        ("dqn cartpole algo.lr=0.2", 1),
    ]
    header, _, first, second = cells(result.table())
    assert header[0] == "settings"
    low, high = bootstrap_interval(returns, iqm)
    interval = f"{low:.4g} to {high:.4g}"
    assert first == [result.groups[0].label, "4", "0", "0", "4", "2.5", interval, "2.5", "2,000"]
    assert second == [result.groups[1].label, "1", "0", "0", "1", "9", "-", "1", "2,000"]


def test_labels_say_what_differs(tmp_path: Path) -> None:
    make_run(tmp_path / "a", algo="dqn", lr=0.1)
    make_run(tmp_path / "b", algo="sarsa", lr=0.3)
    assert [g.label for g in compare([tmp_path]).groups] == ["dqn cartpole", "sarsa cartpole"]


def test_best_checkpoint_counts_else_the_last(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a", test=7.0)
    assert read_run(path).test_return == 7.0
    (path / "result.json").write_text('{"test": {"last": {"return": {"mean": 4.0}}}}')
    assert read_run(path).test_return == 4.0
    (path / "result.json").write_text('{"test": {}}')  # its phases have made no policy
    assert (read_run(path).failure, read_run(path).test_return) == ("", None)


def test_unfinished_run_is_drawn_but_has_no_test(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a", test=None, status="running")
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3000, "eval/ret')  # being written right now
    record = read_run(path)
    assert (record.failure, record.test_return) == ("", None)
    assert record.curve is not None
    assert record.curve[0].tolist() == [1000, 2000]
    told, _, _, _, row = cells(compare([path]).table())
    assert told == [f"UNFINISHED {path}: running, or killed"]
    assert row[1:7] == ["1", "0", "1", "0", "-", "-"]


def test_stopped_and_killed_runs_are_counted(tmp_path: Path) -> None:
    make_run(tmp_path / "a", seed=0)
    make_run(tmp_path / "b", seed=1, test=None, status="running")
    make_run(tmp_path / "c", seed=2, test=None, status="stopped")
    make_run(tmp_path / "d", seed=3, test=None, status="failed")
    failed, first, second, _, _, _, row = cells(compare([tmp_path]).table())
    assert failed[0].startswith(f"FAILED {tmp_path / 'd'}")
    assert first == [f"UNFINISHED {tmp_path / 'b'}: running, or killed"]
    assert second == [f"UNFINISHED {tmp_path / 'c'}: stopped"]
    assert row[1:5] == ["4", "1", "2", "1"]


@pytest.mark.parametrize("path", ["nothing", "empty"])
def test_a_comparison_of_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["compare", path]) == 64
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rlzoo: error: compare: {path}")
    assert [file.name for file in tmp_path.rglob("*")] == ["empty"]


def test_the_picture_is_put_beside_what_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in range(2):
        make_run(Path("sweep") / str(seed), seed=seed)
    for words in (["sweep"], ["sweep/0", "sweep/1"]):
        assert main(["compare", *words]) == 0
        (tmp_path / "sweep" / "compare.png").unlink()
    assert main(["compare", "sweep", "file=mine.png"]) == 0
    assert (tmp_path / "mine.png").exists()


def test_no_picture_is_made_without_a_curve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "a", values=())
    assert main(["compare", str(tmp_path)]) == 0
    assert "no learning curves" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))


def spoil(name: str, content: str | bytes | None) -> Any:
    def do(path: Path) -> None:
        file = path / name
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)

    return do


@pytest.mark.parametrize(
    "fault",
    [
        spoil("config.yaml", None),
        spoil("config.yaml", "a: [1,"),
        spoil("config.yaml", "just text"),
        spoil("config.yaml", b"\xff\xfe\x00"),
        spoil("status.json", "{}"),
        spoil("status.json", '{"status": "failed"}'),
        spoil("metrics.jsonl", None),
        spoil("metrics.jsonl", "not json\n"),
        spoil("metrics.jsonl", "[1]\n"),
        spoil("metrics.jsonl", '{"eval/return_mean": 1}\n'),
        spoil("result.json", "[]"),
        spoil("result.json", '{"test": {"last": {}}}'),
        spoil("result.json", "{"),
    ],
)
def test_broken_run_is_listed_first_and_the_others_are_compared(tmp_path: Path, fault: Any) -> None:
    make_run(tmp_path / "a", seed=0, test=3.0)
    broken = make_run(tmp_path / "b", seed=1, test=1000.0)
    fault(broken)
    result = compare([tmp_path / "a", broken])
    lines = result.table().splitlines()
    assert lines[0].startswith(f"FAILED {broken}: ")
    assert not lines[1]
    rows = [line for line in lines if line.startswith("dqn")]
    assert len(rows) == 1 and " 3 " in rows[0] and "1000" not in rows[0]


def test_failed_run_is_counted_in_its_group(tmp_path: Path) -> None:
    make_run(tmp_path / "a", seed=0)
    make_run(tmp_path / "b", seed=1, status="failed")
    [group] = compare([tmp_path]).groups
    assert (len(group.runs), group.failed) == (1, 1)


def test_path_without_a_run_is_a_failure(tmp_path: Path) -> None:
    result = compare([tmp_path / "nothing"])
    assert result.table().startswith(f"FAILED {tmp_path / 'nothing'}: ")


def test_find_runs_looks_below_and_names_each_once(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / "sweep" / str(n)) for n in range(3)]
    (paths[1] / "config.yaml").unlink()
    (paths[2] / "status.json").unlink()
    assert find_runs([tmp_path / "sweep", paths[0]]) == paths


def test_non_finite_values_are_left_out_of_the_curve(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a", values=(1.0, 2.0))
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3000, "eval/return_mean": null}\n')
    curve = read_run(path).curve
    assert curve is not None and curve[0].tolist() == [1000, 2000]


def test_picture(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path / str(seed), seed=seed, values=(0.0, 1.0 + seed))
    target = compare([tmp_path]).save_picture(tmp_path / "curves.png")
    picture = Image.open(io.BytesIO(target.read_bytes()))
    assert picture.format == "PNG"
    assert np.asarray(picture.convert("RGB")).std() > 5
