from pathlib import Path
from types import SimpleNamespace

import pytest
from deadly_jobs import length_of_name

from data_builders.media.folder import Clip
from data_builders.media.workers import run_jobs


@pytest.mark.slow
def test_a_clip_that_kills_its_process_is_named_and_the_others_go_on():
    names = ["a", "broken", "bb", "deadly", "ccc", "huge", "dddd"]
    jobs = [SimpleNamespace(clip=Clip(name, Path(f"{name}.mp4"))) for name in names]
    results = {
        job.clip.name: (value, reason)
        for job, value, reason in run_jobs(length_of_name, jobs, 2, total=len(jobs), finished=0)
    }
    assert {name: value for name, (value, _) in results.items() if value} == {"a": 1, "bb": 2, "ccc": 3, "dddd": 4}
    for name in ("deadly", "huge"):
        assert results[name][1].startswith(f"{name}.mp4: the process that read it was killed, by a fault")
    assert results["broken"][1] == "broken.mp4: broken in two lines"
