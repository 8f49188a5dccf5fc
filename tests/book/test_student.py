"""The folder for students stands alone, holds no answer, and can be graded."""

import nbformat
import pytest
import student

from cryostar_nb import course


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("course") / "student"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(student, "wheel", lambda folder: folder / "cryostar_nb-0-py3-none-any.whl")
        student.write_student(out)
    return out


def test_its_notebooks_find_their_data_in_it(folder):
    assert course.data_folder(folder / "notebooks") == folder / "data"
    assert list((folder / "book" / "results").glob("*.json"))
    assert len(list((folder / "notebooks").iterdir())) == len(student.NOTEBOOKS)
    assert "cryostar_nb-0-py3-none-any.whl" in (folder / "README.md").read_text()


def test_an_older_wheel_is_replaced(tmp_path, monkeypatch):
    def build(command, *, check):
        (command[command.index("--wheel-dir") + 1] / "cryostar_nb-2-py3-none-any.whl").touch()

    monkeypatch.setattr(student.subprocess, "run", build)
    (tmp_path / "cryostar_nb-1-py3-none-any.whl").touch()
    assert student.wheel(tmp_path).name == "cryostar_nb-2-py3-none-any.whl"
    assert len(list(tmp_path.iterdir())) == 1


def test_it_holds_no_solutions(folder):
    names = [path.name for path in folder.rglob("*")]
    assert "solutions" not in names and not any(name.endswith(".yml") for name in names)


def test_every_exercise_and_check_is_marked_for_nbgrader(folder):
    for path in (folder / "notebooks").iterdir():
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        marks = [cell.metadata.nbgrader for cell in notebook.cells if "nbgrader" in cell.metadata]
        exercises = sum(bool(student.exercise_of(cell)) for cell in notebook.cells)
        assert [mark.solution for mark in marks] == [True, False] * exercises
        assert len({mark.grade_id for mark in marks}) == 2 * exercises >= 6
        assert sum(mark.get("points", 0) for mark in marks) == exercises


def test_a_check_fails_only_where_it_is_graded(monkeypatch):
    for graded in (False, True):
        if graded:
            monkeypatch.setenv("CRYOSTAR_GRADE", "1")
        course.check("Exercise 1", 2, lambda value: value == 2)
        for answer in (None, 3, "two"):
            if graded:
                with pytest.raises(AssertionError, match="Exercise 1: "):
                    course.check("Exercise 1", answer, lambda value: value - 2 == 0)
            else:
                course.check("Exercise 1", answer, lambda value: value - 2 == 0)


def test_the_teachers_notebook_is_run_on_request(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(student, "NOTEBOOKS", student.NOTEBOOKS[:2])
    monkeypatch.setattr(student.papermill, "execute_notebook", lambda *a, **k: ran.append(a))
    student.write_teacher(tmp_path, ["01"])
    target = tmp_path / student.NOTEBOOKS[1].name
    assert [out for _, out in ran] == [str(target)]
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_notebook_showed_stays_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(student, "NOTEBOOKS", student.NOTEBOOKS[:1])
    target = tmp_path / student.NOTEBOOKS[0].name
    student.write_teacher(tmp_path, [])
    ran = nbformat.read(target, as_version=4)
    output = nbformat.v4.new_output("stream", text="ran")
    next(cell for cell in ran.cells if cell.cell_type == "code").outputs = [output]
    nbformat.write(ran, target)
    student.write_teacher(tmp_path, [])
    assert "ran" in str(nbformat.read(target, as_version=4).cells)
    ran.cells[0].source += " changed"
    nbformat.write(ran, target)
    student.write_teacher(tmp_path, [])
    assert not any(cell.get("outputs") for cell in nbformat.read(target, as_version=4).cells)
