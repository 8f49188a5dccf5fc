"""The report of a run, and the HTML that reports are made of."""

import re

import mdtraj
import numpy as np
import pytest
from markupsafe import Markup

from cryostar_nb.pages.html import page, section, table
from cryostar_nb.pages.run_report import write_report
from cryostar_nb.runs.maps import Maps, PartMap


def test_strings_are_escaped_and_html_is_not():
    body = section("a < b", Markup("<b>body</b>"), "x & y") + table([("<i>", "1")], ("<u>", "n"))
    html = page("<title>", "kind", body)
    for text in ("a &lt; b", "<b>body</b>", "x &amp; y", "&lt;i&gt;", "&lt;u&gt;", "&lt;title&gt;"):
        assert text in html
    assert "<title>&lt;title&gt; - kind</title>" in html


@pytest.fixture
def report(make_run, evaluation):
    metrics = {name: [1.0, 2.0] for name in ("step", "image", "elastic")}
    return write_report(make_run(metrics=metrics, evaluation=evaluation))


def test_a_report_needs_no_network_and_holds_every_section(report):
    text = report.read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)\s*=\s*['\"]?(https?:)?//", text)
    headings = re.findall("<h2>(.*?)</h2>", text)
    assert headings[:2] == ["Motion along the first principal component", "Error against the truth"]
    assert headings[-1] == "Training" and len(headings) == 6
    assert text.count("data:image/png") == 4 and "backAndForth" in text
    assert "at the five most open states</th><td>no particle</td>" in text
    assert "&lt;" not in text.split("</head>")[1].split("<script>")[0], "HTML was escaped"


def test_a_report_says_how_wrong_structures_and_poses_are_where_that_was_measured(
    make_run, evaluation
):
    poses = {"rotation_error_deg": 3.456, "shift_error": 1.5}
    evaluation |= {"rmsd_in_gauge": 0.75, "pose_errors_given": poses, "pose_errors_refined": None}
    text = write_report(make_run(evaluation=evaluation)).read_text(encoding="utf-8")
    assert "mean, by the part that is still</th><td>0.75 Å</td>" in text
    assert "poses given</th><td>off by 3.46° and 1.50 Å rms</td>" in text
    assert "poses refined" not in text and "superposed" not in text


def test_a_report_says_how_many_particles_are_probably_good(make_run):
    text = write_report(make_run()).read_text(encoding="utf-8")
    assert "75% of the particles are probably good ones" in text


def test_what_a_run_does_not_have_is_left_out(make_run):
    headings = re.findall("<h2>(.*?)</h2>", write_report(make_run()).read_text(encoding="utf-8"))
    assert not {"Training", "Error against the truth"} & set(headings)


def test_a_report_shows_maps_beside_the_model(make_run, monkeypatch, tmp_path):
    run = make_run()
    curve = [1.0, 0.6, 0.1]
    agreement = [0.9] * 20 + [0.2, None, 0.4, 0.9]
    about = ([0.05, 0.1, 0.15], curve, curve, agreement)
    one = PartMap("pc1_1", 1234.4, 8.25, None, *about)
    maps = Maps(tmp_path, "pc1", "at random", 7, 40.0, [one])
    monkeypatch.setattr(type(run), "made_maps", [maps])
    text = write_report(run).read_text(encoding="utf-8")
    assert "Maps from the particles' pixels: bins along PC1" in text
    row = re.search(r"<th[^>]*>pc1_1</th>(.*?)</tr>", text, re.DOTALL).group(1)
    assert re.findall(r"<td>(.*?)</td>", row) == ["1,234", "8.25 Å", "none", "3 of 24"]
    assert "half-sets at random, within 40 Å" in text and "bad: 7 particles" in text
    assert "showMaps" not in text, "files that are gone are not shown"


def test_the_files_beside_the_report_agree(make_run, report):
    folder = report.parent
    table = np.loadtxt(folder / "pca.csv", delimiter=",", skiprows=1)
    assert (folder / "pca.csv").read_text().startswith("particle,pc1,pc2,pc3\n1,")
    np.testing.assert_array_equal(table[:, 0], np.arange(1, 61))
    frames = mdtraj.load(str(folder / "traversal_pc1.dcd"), top=str(folder / "traversal_pc1.pdb"))
    models = mdtraj.load(str(folder / "traversal_pc1.pdb"))
    assert frames.n_frames == models.n_frames == 21
    np.testing.assert_allclose(frames.xyz, models.xyz, atol=1e-4)
    assert (folder / "latents.html").stat().st_size > 10_000
