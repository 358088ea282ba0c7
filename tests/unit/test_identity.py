"""Whether a server answers with the student, as far as a probe and a folder's name can tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from plan_tuning.config.checks import ConfigError
from plan_tuning.evaluation.identity import Identity
from plan_tuning.students.generation.probe import Probe
from plan_tuning.sweep.jobs import check_servers

from ..composition import jobs_of

OWN, OTHER = "0123456789abcdef", "fedcba9876543210"
PROBE = Probe((1, 2, 3), {7: -0.5, 8: -1.5})
SERVER = ("evaluation.engine=server", "evaluation.server.api_base=http://127.0.0.1:1/v1",
          "evaluation.server.model=student")  # fmt: skip


class Answers:
    """What Identity reads of a server: its card and what it finds likely."""

    api_base, served_model = "http://127.0.0.1:8000/v1", "student"

    def __init__(self, root: str, told: Mapping[int, float]) -> None:
        self.root = root
        self.told = dict(told)
        self.asked: list[Any] = []

    def card(self) -> dict[str, Any]:
        return {"id": "student", "root": self.root, "parent": None}

    def next_tokens(self, prompt: Any) -> dict[int, float]:
        self.asked.append(prompt)
        return self.told


NEAR, FAR = {7: -0.52, 8: -1.48, 9: -3.0}, {9: -0.1, 7: -3.0, 8: -4.0}


@pytest.mark.parametrize(
    ("root", "probe", "told", "verified"),
    [
        ("/models/x", PROBE, NEAR, "yes"),
        (f"/out/artifacts/students/{OWN}", None, {}, "yes"),
        (f"/out/artifacts/students/{OWN}/serving", None, {}, "yes"),
        ("/models/x", None, {}, "unknown"),
        ("/models/x", PROBE, FAR, "no"),
        (f"/out/artifacts/students/{OTHER}", None, {}, "no"),
        (f"/out/artifacts/bases/{OTHER}", PROBE, NEAR, "no"),
        (f"/out/artifacts/students/{OWN}", PROBE, FAR, "no"),  # overwritten since it was loaded
    ],
)
def test_what_a_server_says_of_itself(
    root: str, probe: Probe | None, told: Mapping[int, float], verified: str
) -> None:
    identity = Identity(OWN, probe, 0.15)
    server: Any = Answers(root, told)
    if verified == "no":
        with pytest.raises(ConfigError, match=r"other weights than the student .* Nothing was ask"):
            identity.check(server)
    else:
        identity.check(server)
        identity.check(server)
        assert len(server.asked) == (0 if probe is None else 2), "whenever it is opened"
    assert identity.facts()["student_verified"] == verified
    assert ("probe_gap" in identity.facts()) == (probe is not None)


def test_a_gap_may_be_meant() -> None:
    identity = Identity(OWN, PROBE, None)
    server: Any = Answers("/models/awq", FAR)
    identity.check(server)
    assert identity.facts() == {"student_verified": "unknown"}


def test_one_server_is_asked_in_the_name_of_one_student(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("model=micro", "data=microworld", *SERVER)
    settings = jobs_of(tmp_path, *common, "method=m1", "evaluation.temperature=0.0,0.7")
    assert len(settings) == 2
    other = jobs_of(tmp_path, *common, "method=sft")
    named = jobs_of(tmp_path, *common, "method=sft", "evaluation.server.model=another")
    untested = jobs_of(tmp_path, *common, "method=sft", "stages=[distill,train]")
    check_servers([*settings, *named, *untested])
    with pytest.raises(ConfigError, match=r"one student, and 2 are to be asked") as refused:
        check_servers([*settings, *other])
    assert "evaluation.engine=vllm" in str(refused.value)
    with pytest.raises(SystemExit):
        jobs_of(tmp_path, *common, "method=m1,sft")
    assert "(no job was started)" in capsys.readouterr().err
