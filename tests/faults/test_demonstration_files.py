"""Demonstrations that are wrong, foreign or hostile: one line, at once, and no code runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from numpy.lib import format as npy

from rlzoo.core.types import DataError
from rlzoo.demonstrations import formats as demonstration_formats
from rlzoo.demonstrations import npz
from rlzoo.demonstrations.files import load
from rlzoo.demonstrations.trajectories import Demonstrations, check_fits

STEPS, TRAJECTORIES, FEATURES, ACTIONS = 30, 3, 4, 2
PLANE = spaces.Box(-np.inf, np.inf, (FEATURES,), np.float32)
TORQUES = spaces.Box(-1, 1, (ACTIONS,), np.float32)


def imitation() -> dict[str, np.ndarray]:
    """The members of a sound file in the format of imitation."""
    rng = np.random.default_rng(0)
    return {
        "obs": rng.normal(size=(STEPS + TRAJECTORIES, FEATURES)).astype(np.float32),
        "acts": rng.uniform(-1, 1, (STEPS, ACTIONS)).astype(np.float32),
        "rews": rng.normal(size=STEPS),
        "terminal": np.array([True, False, True]),
        "indices": np.array([10, 12]),
    }


def baselines() -> dict[str, np.ndarray]:
    """The same for openai/baselines: [trajectories, steps, ...], no padding."""
    rng = np.random.default_rng(0)
    reward = rng.normal(size=(TRAJECTORIES, 10))
    return {
        "obs": rng.normal(size=(TRAJECTORIES, 10, FEATURES)),
        "acs": rng.uniform(-1, 1, (TRAJECTORIES, 10, ACTIONS)),
        "rews": reward,
        "ep_rets": reward.sum(1),
    }


def refused(path: Path, match: str) -> None:
    start = time.process_time()
    with pytest.raises(DataError, match=match) as caught:
        load(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert str(caught.value).startswith(str(path))
    assert time.process_time() - start < 1


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "demos.npz"


@pytest.mark.parametrize("members", [imitation(), baselines()], ids=["imitation", "baselines"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_control_the_sound_files_load(path, members, save):
    save(path, **members)
    demonstrations = load(path)
    assert demonstrations.num_steps == STEPS and demonstrations.num_trajectories == TRAJECTORIES
    check_fits(demonstrations, PLANE, TORQUES)


# Wrong -------------------------------------------------------------------------------------------

i, b = imitation(), baselines()
nan = np.where(np.arange(STEPS + TRAJECTORIES)[:, None] == 5, np.nan, i["obs"])
inf = np.where(np.arange(STEPS) == 7, np.inf, i["rews"])
WRONG = {  # what is changed (None: left out) -> key, got, expected
    "missing": ({"acts": None}, r"acts: missing; got indices, obs.*, expected acts, indices, obs"),
    "extra": ({"extra": i["obs"]}, r"extra: unknown key, expected acts, indices"),
    "swapped": ({"obs": i["acts"], "acts": i["obs"]}, r"obs: .*\(30, 2\), expected \(36, \.\.\.\)"),
    "obs short": ({"obs": i["obs"][1:]}, r"obs: got the shape \(32, 4\), expected \(33, \.\.\.\)"),
    "rews short": ({"rews": i["rews"][1:]}, r"rews: got the shape \(29,\), expected \(30\)"),
    "rews 2-D": ({"rews": i["rews"][:, None]}, r"rews: got the shape \(30, 1\), expected \(30\)"),
    "terminal": ({"terminal": i["terminal"][1:]}, r"terminal: got the shape \(2,\), expected \(3"),
    "terminal int": ({"terminal": np.ones(3)}, r"terminal: got float64, expected bool"),
    "indices": ({"indices": np.array([12, 10])}, r"indices: expected steps that rise"),
    "indices far": ({"indices": np.array([10, 30])}, r"indices: expected .* from 1 to 29"),
    "indices float": ({"indices": np.array([1.0, 2])}, r"indices: got float64, expected integers"),
    "float16": ({"obs": i["obs"].astype(np.float16)}, r"obs: got float16, expected .*float32"),
    "float16 rews": ({"rews": i["rews"].astype(np.float16)}, r"rews: got float16, expected"),
    "complex": ({"obs": i["obs"] + 0j}, r"obs: got the dtype complex64, expected a plain number"),
    "text acts": ({"acts": np.array(["left"] * STEPS)}, r"acts: got <U4, expected integers or fl"),
    "empty": ({"acts": i["acts"][:0], "rews": i["rews"][:0]}, r"acts: empty: got 0 steps, exp"),
    "NaN": ({"obs": nan}, r"obs: got nan at index \[5, 0\], expected finite numbers"),
    "Inf": ({"rews": inf}, r"reward: got inf at index \[7\], expected finite numbers"),
    "beyond float32": (
        {"obs": np.full((STEPS + TRAJECTORIES, FEATURES), 1e39)},
        r"obs: got 1e\+39 at index \[0, 0\], expected finite numbers",
    ),
    "env_id": ({"env_id": np.array("a b\n")}, r"env_id: got 'a b\\n', expected a gymnasium id"),
    "seeds": ({"seeds": np.array([0, -5, 1])}, r"seed: got -5, expected whole numbers >= 0"),
}
WRONG_BASELINES = {
    "missing": ({"ep_rets": None}, r"ep_rets: missing; got acs, obs, rews, expected acs, ep_rets"),
    "acs": ({"acs": b["acs"][:, 1:]}, r"acs: got the shape \(3, 9, 2\), expected \(3, 10, \.\.\."),
    "rews": ({"rews": b["rews"].T}, r"rews: got the shape \(10, 3\), expected \(3, 10\)"),
    "flat": ({"obs": b["obs"][0, 0]}, r"obs: got the shape \(4,\), expected \(any, any, \.\.\.\)"),
    "ep_rets": ({"ep_rets": b["ep_rets"] + 1}, r"ep_rets: got .* for trajectory 0, expected"),
    "ep_lens": ({"ep_lens": np.array([5, 11, 5])}, r"ep_lens: got .*, expected 1 to 10"),
    "empty": ({key: b[key][:0] for key in b}, r"obs: empty: got 0 steps, expected at least one"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_imitation_file(path, fault):
    changes, match = WRONG[fault]
    np.savez(path, **{k: x for k, x in (imitation() | changes).items() if x is not None})
    refused(path, match)


@pytest.mark.parametrize("fault", WRONG_BASELINES)
def test_wrong_baselines_file(path, fault):
    changes, match = WRONG_BASELINES[fault]
    np.savez(path, **{k: x for k, x in (baselines() | changes).items() if x is not None})
    refused(path, match)


def ignore(*_: object) -> None: ...


REQUIRE = (demonstration_formats._Columns, "require", ignore)
GUARDS = {
    "swapped": REQUIRE,
    "obs short": REQUIRE,
    "rews short": REQUIRE,
    "terminal int": REQUIRE,
    "float16": REQUIRE,
    "missing": (demonstration_formats, "recognised", lambda *_: "imitation"),
    "extra": (demonstration_formats, "recognised", lambda *_: "imitation"),
    "complex": (npz, "_DTYPE", re.compile(".*")),
    "NaN": (Demonstrations, "__post_init__", ignore),
    "beyond float32": (Demonstrations, "__post_init__", ignore),
    "seeds": (Demonstrations, "__post_init__", ignore),
    "Inf": (Demonstrations, "__post_init__", ignore),
    "env_id": (demonstration_formats, "_ENV_ID", re.compile(".*", re.DOTALL)),
}


@pytest.mark.parametrize("fault", GUARDS)
def test_control_without_its_guard_the_fault_gets_further(path, fault, monkeypatch):
    monkeypatch.setattr(*GUARDS[fault])
    changes, match = WRONG[fault]
    np.savez(path, **{k: x for k, x in (imitation() | changes).items() if x is not None})
    try:
        load(path)
    except (DataError, IndexError, KeyError, ValueError) as error:
        assert not re.search(match, str(error)), "another guard says the same"


def test_integer_rewards_and_big_endian_numbers_are_converted(path):
    members = imitation()
    members["rews"] = np.arange(STEPS)
    members["obs"] = members["obs"].astype(">f4")
    np.savez(path, **members)
    demonstrations = load(path)
    assert demonstrations.reward.dtype == np.float64
    assert demonstrations.reward.tolist() == list(range(STEPS))
    assert demonstrations.obs.dtype == np.float32 and demonstrations.obs.dtype.isnative
    assert np.array_equal(demonstrations.final_obs[0], members["obs"][10])


def fits(path: Path, obs_space: spaces.Space, action_space: spaces.Space, *env_id: str) -> str:
    try:
        check_fits(load(path), obs_space, action_space, *env_id)
    except DataError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


def test_what_does_not_belong_to_the_env(path):
    np.savez(path, **imitation(), env_id="Hopper-v4")
    other = spaces.Box(-np.inf, np.inf, (15,), np.float32)
    assert "obs: got float32 (4,), expected float32 (15,)" in fits(path, other, TORQUES)
    assert "action: got float32 (2,), expected an integer" in fits(path, PLANE, spaces.Discrete(4))
    images = spaces.Box(0, 255, (FEATURES,), np.uint8)
    assert "obs: got float32 (4,), expected uint8 (4,)" in fits(path, images, TORQUES)
    wrong = fits(path, PLANE, TORQUES, "rlzoo.envs.zoo.bullet:HopperBulletEnv-v0")
    assert "env_id: got Hopper-v4, expected rlzoo.envs.zoo.bullet:HopperBulletEnv-v0" in wrong
    assert fits(path, PLANE, TORQUES, "gymnasium:Hopper-v5") == ""  # control: another version


def test_actions_outside_of_the_space(path):
    members = imitation()
    members["acts"][17, 1] = 1.5
    np.savez(path, **members)
    text = fits(path, PLANE, TORQUES)
    assert "action: got [" in text and "1.5] at step 17, expected float32 (2,) from -1 to 1" in text
    members["acts"][17, 1] = 1 + 1e-7  # control: rounding
    np.savez(path, **members)
    assert fits(path, PLANE, TORQUES) == ""
    members["acts"] = np.full(STEPS, 3, np.int8)
    np.savez(path, **members)
    text = fits(path, PLANE, spaces.Discrete(3))
    assert text.endswith("action: got 3 at step 0, expected an integer from 0 to 2")
    assert fits(path, PLANE, spaces.Discrete(3, start=1)) == ""


# Hostile -----------------------------------------------------------------------------------------


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def array_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    npy.write_array(buffer, array)
    return buffer.getvalue()


def header_bytes(text: str, content: bytes = b"") -> bytes:
    """An .npy file with any header text."""
    header = text.encode("latin1") + b"\n"
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + content


def zipped(path: Path, changes: dict[str, bytes] | list[tuple[str, bytes]]) -> None:
    """A sound file with some members replaced or added, byte by byte."""
    changed = list(changes.items()) if isinstance(changes, dict) else changes
    names = {name for name, _ in changed}
    sound = [(f"{k}.npy", array_bytes(x)) for k, x in imitation().items()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in [m for m in sound if m[0] not in names] + changed:
            file.writestr(name, content)


def test_pickles_run_nothing(path, tmp_path):
    canary = tmp_path / "canary"
    evil = pickle.dumps(Canary(canary))
    path.write_bytes(evil)
    refused(path, "a pickle, which could run code and is never loaded, expected an .npz file")
    np.savez(path, **imitation() | {"obs": np.array([Canary(canary)], dtype=object)})
    refused(path, "obs: an object array")
    zipped(path, {"obs.npy": evil})
    refused(path, "obs: a pickle, which could run code")
    assert not canary.exists()
    np.savez(path, **imitation() | {"obs": np.array([Canary(canary)], dtype=object)})
    np.load(path, allow_pickle=True)["obs"]  # control: the canary would have sung
    assert canary.exists()


def test_pickled_infos_of_a_real_file_are_left_unread(path, tmp_path):
    infos = np.array([Canary(tmp_path / "canary")] + [{}] * (STEPS - 1), dtype=object)
    np.savez_compressed(path, **imitation(), infos=infos)
    assert load(path).num_steps == STEPS
    assert not (tmp_path / "canary").exists()


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }"
BAD_HEADERS = {
    "7 TiB": (
        HEADER % "2000000000000,",
        r"obs: float32 .* in the header, which is 8000000000000 b",
    ),
    "overflow": (HEADER % "4294967296, 4294967296, 4", r"obs: got the shape"),
    "overflow empty": (HEADER % "0, 4294967296, 4294967296", r"obs: got the shape"),
    "negative": (HEADER % "-1,", r"obs: got the shape \(-1,\)"),
    "bool": (HEADER % "True,", r"obs: got the shape \(True,\)"),
    "list": (
        "{'descr': '<f4', 'fortran_order': False, 'shape': [3]}",
        r"obs: a malformed \.npy header: shape is not valid: \[3\]",
    ),
    "code": ("__import__('os').mkdir('canary')", r"obs: a malformed \.npy header"),
    "call": ("{'descr': open('canary', 'w')}", r"obs: a malformed \.npy header"),
    "deep": ("(" * 3000, r"obs: a malformed \.npy header"),
    "minus": ("-" * 4000 + "1", r"obs: a malformed \.npy header"),
    "sum": ("1" + "+1" * 2000, r"obs: a malformed \.npy header"),
    "other": ("{'descr': '<f4'}", r"obs: a malformed \.npy header"),
    "hexadecimal": (HEADER % f"0x{'f' * 3900},", r"obs: a malformed \.npy header"),
    "escape": (r"{'descr': '\d'}", r"obs: a malformed \.npy header"),
    "glued": ("1if 1else 2", r"obs: a malformed \.npy header"),
    "record": (
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,)}",
        r"obs: got the dtype \[\('a', '<f4'\)\], expected a plain number type",
    ),
    "object": (
        "{'descr': '|O', 'fortran_order': False, 'shape': (3,)}",
        r"obs: an object array \(a pickle, which is never loaded\), expected numbers",
    ),
    "long": ("{" + " " * 9000 + "}", r"obs: a malformed .* Header info length \(9003\) is large"),
}


@pytest.mark.parametrize("fault", BAD_HEADERS)
def test_hostile_headers(path, tmp_path, monkeypatch, recwarn, fault):
    monkeypatch.chdir(tmp_path)
    header, match = BAD_HEADERS[fault]
    zipped(path, {"obs.npy": header_bytes(header, b"\0" * 64)})
    refused(path, match)
    assert not recwarn.list  # a second line
    assert not Path("canary").exists()


def test_a_text_of_no_characters(path):
    header = "{'descr': '<U1', 'fortran_order': False, 'shape': ()}"
    zipped(path, {"env_id.npy": header_bytes(header, b"\xff" * 4)})
    refused(path, "env_id: got '\ufffd', expected a gymnasium id")
    zipped(path, {"env_id.npy": header_bytes(header, b"A\0\0\0")})
    assert load(path).env_id == "A"  # control


def test_control_a_header_of_that_making_is_read(path):
    content = imitation()["obs"].tobytes()
    zipped(path, {"obs.npy": header_bytes(HEADER % f"{STEPS + TRAJECTORIES}, 4", content)})
    assert load(path).num_steps == STEPS


@pytest.mark.parametrize("name", ["../x.npy", "/tmp/x.npy", "a/b.npy", "x", "ø.npy"])
def test_hostile_names(path, name):
    zipped(path, {name: array_bytes(np.ones(3))})
    refused(path, "a member named .*, expected a plain name such as 'obs.npy'|two members")


def test_members_named_twice(path):
    with pytest.warns(UserWarning, match="Duplicate"):
        zipped(path, [("acts.npy", array_bytes(imitation()["acts"]))] * 2)
    refused(path, "two members named 'acts'")
    assert np.load(path)["acts"].shape  # control: NumPy takes the last one without a word


def test_too_many_members(path):
    zipped(path, [(f"x{k}.npy", b"") for k in range(100)])
    refused(path, "105 members, expected at most 64")


def test_a_giant_directory_is_refused_unread(path, monkeypatch):
    zipped(path, [(f"x{k}.npy", b"") for k in range(2000)])
    refused(path, r"malformed zip: a directory of 1\d{5} bytes, expected at most 65536")
    monkeypatch.setattr(npz, "_READ_BYTES", 1 << 20)  # control: it is what keeps it unread
    refused(path, "2005 members, expected at most 64")


def test_a_link_inside_of_the_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        for key, array in imitation().items():
            info = zipfile.ZipInfo(f"{key}.npy")
            info.external_attr = (0o120777 if key == "obs" else 0o100644) << 16
            file.writestr(info, array_bytes(array))
    refused(path, r"obs\.npy: not a regular file inside of the zip")


def test_links_pipes_and_devices_are_not_opened(path, tmp_path):
    target = tmp_path / "target.npz"
    np.savez(target, **imitation())
    path.symlink_to(target)
    refused(path, f"not a regular file but a symbolic link to '{target}'")
    assert load(target).num_steps == STEPS  # control
    path.unlink()
    os.mkfifo(path)
    refused(path, "not a regular file")
    path.unlink()
    refused(path, "no such file")
    with pytest.raises(DataError, match="/dev/zero: not a regular file"):
        load("/dev/zero")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_truncated_anywhere(path, save):
    save(path, **imitation())
    whole = path.read_bytes()
    for size in [0, 1, 3, 4, 30, 100, len(whole) // 2, len(whole) - 50, len(whole) - 1]:
        path.write_bytes(whole[:size])
        refused(path, "truncated|empty|begins with|bytes after")
    path.write_bytes(whole + b"\0")
    refused(path, "bytes after the zip's end")
    path.write_bytes(b"PK\3\4" + whole)
    refused(path, "truncated, or the zip's directory is misplaced")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_flipped_bytes_never_pass_unseen(path, save):
    """Every byte of an array counts; what a flip leaves readable is the very same content."""
    members = imitation()
    save(path, **members)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    seen = 0
    for position in rng.choice(len(whole), 150, replace=False):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            demonstrations = load(path)
        except DataError as error:
            assert "\n" not in str(error)
            seen += 1
        else:
            assert np.array_equal(demonstrations.action, members["acts"])
            assert np.array_equal(demonstrations.reward, members["rews"])
    assert seen > 100


def test_a_wrong_checksum(path, monkeypatch):
    np.savez(path, **imitation())
    acts = imitation()["acts"].tobytes()
    path.write_bytes(path.read_bytes().replace(acts, acts[:-1] + bytes([acts[-1] ^ 1])))
    refused(path, "acts: corrupt: Bad CRC-32")
    monkeypatch.setattr(npz, "MAP_FROM_BYTES", 1)
    refused(path, "acts: corrupt: Bad CRC-32")  # mapped, too
    with zipfile.ZipFile(path) as file:
        crc = file.getinfo("acts.npy").CRC
    monkeypatch.setattr(zipfile, "crc32", lambda *_: crc)
    others = imitation().keys() - {"acts"}
    with npz.Npz(path, skip=others) as file:  # control: with the guard fooled the damage is read
        assert file.array("acts").tobytes() != acts


def test_members_that_overlap(path):
    np.savez(path, **imitation())
    sound = path.read_bytes()
    entries = [m.start() for m in re.finditer(b"PK\x01\x02", sound)]
    same_place = bytearray(sound)
    same_place[entries[1] + 42 : entries[1] + 46] = sound[entries[0] + 42 : entries[0] + 46]
    path.write_bytes(same_place)
    refused(path, "acts: overlaps another member")
    longer = bytearray(sound)
    for at in (entries[0] + 20, entries[0] + 24):  # compressed and expanded size
        size = int.from_bytes(sound[at : at + 4], "little") + 8
        longer[at : at + 4] = size.to_bytes(4, "little")
    path.write_bytes(longer)
    refused(path, "acts: overlaps another member")


def test_encrypted_members(path):
    np.savez(path, **imitation())
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(whole)
    refused(path, r"obs\.npy: encrypted")


def test_foreign_files(path):
    np.save(path.with_suffix(".npy"), np.ones(3))
    refused(path.with_suffix(".npy"), r"a single \.npy array, expected an \.npz file")
    path.write_text("obs,acts\n1,2\n")
    refused(path, r"begins with b'obs,ac', expected an \.npz file")
    with zipfile.ZipFile(path, "w"):
        pass
    refused(path, r"acts: missing; got nothing, expected acts, indices")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as file:
        file.writestr("obs.npy", array_bytes(imitation()["obs"]))
    refused(path, r"obs\.npy: compression method 12, expected none or deflate")


# Large -------------------------------------------------------------------------------------------

PROBE = r"""
import json, re, sys, time
from rlzoo.demonstrations import npz
from rlzoo.demonstrations.files import load
from rlzoo.core.types import DataError

def mebibytes(name):
    status = open("/proc/self/status").read()
    return int(re.search(name + r":\s*(\d+)", status)[1]) / 1024

def attempt(path):
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
    begin, before = time.process_time(), mebibytes("VmRSS")
    try:
        load(path)
        error = ""
    except DataError as refusal:
        error = str(refusal)
    return error, time.process_time() - begin, mebibytes("VmHWM") - before

results = [attempt(path) for path in sys.argv[1:]]
npz.MAX_EXPANSION = 10**9  # the control: the last one again, unguarded
print(json.dumps([*results, attempt(sys.argv[-1])]))
"""


def attempts(*paths: Path) -> list[tuple[str, float, float]]:
    """For each file: the refusal, seconds, and growth of the process in MiB."""
    command = [sys.executable, "-c", PROBE, *map(str, paths)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def bomb(path: Path, mebibytes: int) -> None:
    """Zeros, in a form that is right in every other way."""
    rows = (mebibytes << 20) // 400
    head = HEADER % f"{rows + 1}, 100"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("obs.npy", "w") as member:
            member.write(header_bytes(head))
            left = (rows + 1) * 400
            while left:
                left -= member.write(b"\0" * min(left, 1 << 20))
        for key, array in (
            ("acts", np.zeros((rows, 1), np.float32)),
            ("rews", np.zeros(rows)),
            ("terminal", np.ones(1, bool)),
            ("indices", np.zeros(0, np.int64)),
        ):
            file.writestr(f"{key}.npy", array_bytes(array))


def test_bombs_are_refused_from_their_headers(tmp_path):
    big, small, lie = tmp_path / "big.npz", tmp_path / "small.npz", tmp_path / "lie.npz"
    bomb(big, 400)
    bomb(small, 50)
    zipped(lie, {"obs.npy": header_bytes(HEADER % "2000000000000,", b"\0" * (60 << 20))})
    assert max(file.stat().st_size for file in (big, lie)) < 500_000
    *guarded, (no_error, _, without_guard) = attempts(big, lie, small)
    errors, seconds, mebibytes = zip(*guarded, strict=True)
    assert re.search(r"\d+ bytes that expand to 4\d+, expected at most \d+", errors[0])
    assert "in the header, which is 8000000000000 bytes, got 62914560" in errors[1]
    assert re.search(r"\d+ bytes that expand to 5\d+, expected at most \d+", errors[2])
    assert max(seconds) < 1 and max(mebibytes) < 50
    assert no_error == "" and without_guard > 45


def test_zeros_of_a_real_recording_are_no_bomb(path):
    bomb(path, 20)
    assert load(path).num_steps > 0


def is_part_of_a_file(array: Any) -> bool:
    """Whether an array is a view of a mapped file."""
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


@pytest.mark.parametrize("is_mapped", [True, False], ids=["mapped", "control"])
def test_a_large_file_is_mapped_not_read(path, monkeypatch, is_mapped):
    rows = 1_000_000
    members = imitation() | {
        "obs": np.ones((rows, 20), np.float32),
        "final_obs": np.ones((3, 20), np.float32),
        "acts": np.ones((rows, 5), np.float32),
        "rews": np.ones(rows),
    }
    np.savez(path, **members)
    del members
    monkeypatch.setattr(npz, "MAP_FROM_BYTES", 1 << 20 if is_mapped else 1 << 40)
    demonstrations = load(path)
    assert is_part_of_a_file(demonstrations.obs) == is_mapped
    assert is_part_of_a_file(demonstrations.action) == is_mapped
    assert demonstrations.subset([0, 1]).obs.sum() == 12 * 20
    with pytest.raises(ValueError, match="read-only"):
        demonstrations.obs[0, 0] = 2
