"""What is seen of a solution: words, HTML, a picture, arrays of xarray; and what is logged."""

from __future__ import annotations

import dataclasses
import html.parser
import logging
import sys

import numpy as np
import pytest

import retrograde as rg

TS = [0.0, 0.5, 1.0]


def decay(t, y, args):
    return -y


def tree_field(t, y, args):
    return {"x": -y["x"], "v": (-y["v"][0],)}


def tree(backend, dtype="float64"):
    return {"x": backend.array([1.0, 2.0], dtype), "v": (backend.array([[1.0]], dtype),)}


def failed(backend, **keywords):
    y0 = backend.array([1.0])
    return rg.solve(decay, y0, 0.0, 1.0, rtol=1e-9, max_steps=3, throw=False, **keywords)


def test_words_tell_what_came_out(backend):
    sol = rg.solve(tree_field, tree(backend), 0.0, 1.0, saveat=TS)
    lines = {line.split()[0]: line for line in repr(sol).splitlines()}
    assert repr(sol) == str(sol)
    assert repr(sol).startswith("Solution: converged\n")
    assert "float64 (3,), 0 to 1" in lines["ts"]
    assert "float64 (3, 2)" in lines["ys['x']"]
    assert "float64 (3, 1, 1)" in lines["ys['v'][0]"]
    assert f"{sol.stats['num_accepted_steps']} accepted" in lines["steps"]
    assert str(sol.stats["num_f_evals"]) in lines["num_f_evals"]
    assert repr(failed(backend)).startswith("Solution: max_steps\n")


def test_the_plan_has_a_line_and_a_table(reference):
    sol, _ = rg.solve_vjp(decay, np.ones(2), 0.0, 1.0, dt=0.01, memory="2 KiB")
    assert f"plan               {sol.plan.summary}" in repr(sol)
    assert sol.plan.summary in str(sol.plan).replace("\n  ", ": ", 1)
    for text, cells in ((sol._repr_html_(), 5), (sol.plan._repr_html_(), 5)):
        seen = Checked(text)
        assert seen.open == []
        assert seen.rows.count(cells) == 1 + len(sol.plan.candidates)
        assert all(c.reason in seen.text for c in sol.plan.candidates)
        assert sol.plan.reason in seen.text
    assert "ys" in Checked(sol._repr_html_()).text


class Checked(html.parser.HTMLParser):
    """HTML whose tags are closed in order; ``rows`` are its tables' numbers of cells."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "br":
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_inside_of_a_trace_shapes_are_shown():
    jax = pytest.importorskip("jax")
    shown = []

    def solve(y0):
        sol = rg.solve(lambda t, y, args: y * y, y0, 0.0, 1.0, max_steps=8)
        shown.append((repr(sol), sol._repr_html_()))
        for show in (sol.plot, sol.to_xarray):
            with pytest.raises((rg.InputError, rg.RetrogradeError), match=r"traced|pip install"):
                show()
        return sol

    sol = jax.jit(jax.vmap(solve))(jax.numpy.asarray([[0.0], [1.0], [1e8]]))
    assert "status not known yet (int" in shown[0][0]
    assert "(1, 1)" in shown[0][0]
    assert Checked(shown[0][1]).open == []
    assert repr(sol).startswith("Solution: 1 converged, 2 max_steps")
    assert " accepted, " in repr(sol)
    assert "'a'" in repr(jax.tree.map(lambda x: "a", sol))
    with pytest.raises(rg.InputError, match=r"`plot\(\)` shows one solve, but `ts` is float"):
        sol.plot()


@pytest.mark.libraries("numpy strict torch")
def test_a_picture_has_a_line_for_every_number(backend, tmp_path):
    figures = pytest.importorskip("matplotlib.figure")
    sol = rg.solve(tree_field, tree(backend, "complex128"), 0.0, 1.0, saveat=TS)
    ax = sol.plot(tmp_path / "a.png")
    labels = [
        f"{part} y{x}" for x in ("['x'][0]", "['x'][1]", "['v'][0][0, 0]") for part in ("re", "im")
    ]
    assert [line.get_label() for line in ax.lines] == labels
    assert [text.get_text() for text in ax.get_legend().get_texts()] == labels
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    axes = figures.Figure().subplots()
    assert failed(backend, saveat=TS).plot(ax=axes) is axes
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), TS[:1])  # what was reached
    many = rg.solve(decay, backend.array(np.ones(20)), 0.0, 1.0, saveat=TS).plot()
    assert len(many.lines) == 20
    assert many.get_legend() is None


@pytest.mark.libraries("numpy strict torch jax", slow="jax:jit")
def test_rows_as_arrays_of_xarray(backend):
    xarray = pytest.importorskip("xarray")
    sol = rg.solve(decay, backend.array([[1.0, 2.0]], "float32"), 0.0, 1.0, saveat=TS)
    found = sol.to_xarray()
    assert (found.name, found.dims, found.shape) == ("y", ("time", "dim_0", "dim_1"), (3, 1, 2))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.values, backend.to_numpy(sol.ys))
    np.testing.assert_array_equal(found.time, backend.to_numpy(sol.ts))
    assert found.attrs["status"] == "converged"
    assert found.attrs["num_steps"] == sol.stats["num_steps"]
    data = rg.solve(tree_field, tree(backend), 0.0, 1.0, saveat=TS).to_xarray()
    assert isinstance(data, xarray.Dataset)
    assert data["v_0"].dims == ("time", "v_0_0", "v_0_1")
    np.testing.assert_allclose(data["x"].sel(time=1.0), np.exp(-1) * np.array([1.0, 2.0]), 1e-4)
    assert len(failed(backend, saveat=TS).to_xarray().time) == 1


def test_events_are_shown(reference):
    pytest.importorskip("matplotlib.figure")
    cross = rg.Event(lambda t, y, args: y[0], terminal=2)
    swing = lambda t, y, args: np.stack([y[1], -y[0]])  # noqa: E731
    sol = rg.solve(swing, np.asarray([1.0, 0.0]), 0.0, 9.0, event=cross, saveat=[0.0, 1.0, 4.0])
    assert repr(sol).startswith("Solution: event\n")
    assert "2 recorded; 0 ended the solve" in repr(sol)
    lines = sol.plot().lines
    assert [line.get_linestyle() for line in lines] == ["-", "-", ":", ":"]
    np.testing.assert_allclose([line.get_xdata()[0] for line in lines[2:]], sol.events[0].ts)


def test_one_of_several_is_shown(reference):
    """Outputs, and samples of a batch: what there is is told, and how to take one."""
    pytest.importorskip("matplotlib.figure")
    saveat = {"a": rg.SaveAt(ts=TS), "b": rg.SaveAt(steps=True, dense=True)}
    sol = rg.solve(decay, np.ones(2), 0.0, 1.0, saveat=saveat)
    assert "ts['a']" in repr(sol)
    assert "evaluate(t)" in repr(sol)
    with pytest.raises(
        rg.InputError, match=r"`plot\(\)` shows one output of a solve, but `saveat`"
    ):
        sol.plot()
    one = dataclasses.replace(sol, ts=sol.ts["a"], ys=sol.ys["a"])
    assert len(one.plot().lines) == 2
    batch = rg.solve(decay, np.ones((3, 2)), 0.0, 1.0, per_sample=True, saveat=TS)
    assert "(3, 3)" in repr(batch)
    with pytest.raises(rg.InputError, match="take a sample of the batch"):
        batch.plot()
    one = dataclasses.replace(batch, ts=batch.ts[:, 1], ys=batch.ys[:, 1])
    assert len(one.plot().lines) == 2


def test_what_is_missing_is_named_with_its_command(reference, monkeypatch):
    sol = rg.solve(decay, np.ones(1), 0.0, 1.0)
    for module, show, extra in (
        ("matplotlib.figure", sol.plot, "plot"),
        ("xarray", sol.to_xarray, "xarray"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(rg.RetrogradeError, match=rf'pip install "retrograde\[{extra}\]"'):
            show()


def test_the_logger_tells_of_plans_and_failures(reference, caplog):
    with caplog.at_level(logging.DEBUG, logger="retrograde"):
        sol, _ = rg.solve_vjp(decay, np.ones(1), 0.0, 1.0, dt=0.1)
        failed(reference)
    plan, failure = (record for record in caplog.records if record.name == "retrograde")
    assert plan.levelname == "DEBUG"
    assert sol.plan.summary in plan.getMessage()
    assert sol.plan.reason in plan.getMessage()
    assert failure.levelname == "INFO"
    assert "after 3 tries: the number of tries reached `max_steps`" in failure.getMessage()


def test_the_logger_tells_that_a_solve_begins_again(reference, caplog):
    y0 = np.ones(100)

    def late(t, y, args):  # its steps are long until t = 9
        return -y * np.where(t < 9.0, 1e-3, 1e3)

    with caplog.at_level(logging.INFO, logger="retrograde"):
        sol, _ = rg.solve_vjp(late, y0, 0.0, 10.0, memory="128 KiB")
    again = [r for r in caplog.records if "begins again" in r.getMessage()]
    assert len(again) >= 1
    assert sol.plan.summary in again[-1].getMessage()
