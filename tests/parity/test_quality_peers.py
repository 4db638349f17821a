"""The metrics of regions beside pysodmetrics, `python -m pytest -m peers`: installed into an environment of its own."""

import json
import subprocess
import venv
from pathlib import Path

import pytest

from tests.support.tolerance import PEER_METRICS
from tests.unit.matting.test_quality_regions import PEERS

pytestmark = [pytest.mark.peers, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json
import py_sod_metrics as metrics
from tests.support.matte_cases import cases
found = {}
for name, (matte, truth) in cases().items():
    S, F, E = metrics.Smeasure(), metrics.WeightedFmeasure(), metrics.Emeasure()
    H = metrics.HumanCorrectionEffortMeasure()
    for metric in (S, F, E, H):
        metric.step(matte, truth)
    em = E.get_results()["em"]
    found[name] = [S.get_results()["sm"], F.get_results()["wfm"], em["curve"].max(), em["curve"].mean(), em["adp"],
                   H.get_results()["hce"]]
print(json.dumps(found))
"""


def test_it_still_finds_what_the_tests_say(tmp_path: Path) -> None:
    venv.create(tmp_path, with_pip=True)
    python = tmp_path / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "pysodmetrics==1.6.2"], check=True)
    run = subprocess.run([python, "-c", SCRIPT], check=True, capture_output=True, text=True, cwd=ROOT)
    found = json.loads(run.stdout)
    assert set(found) == set(PEERS)
    for name, figures in found.items():
        assert figures == pytest.approx(PEERS[name], abs=PEER_METRICS), name
