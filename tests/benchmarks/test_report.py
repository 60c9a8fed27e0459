"""Tables and plots tell what the samples tell, and nothing in a document is typed."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks.cli import main
from benchmarks.report import places, plot_result, publish, render, rewrite, summarize
from benchmarks.results import read_result
from tests.benchmarks.fakes import SERIES, environment, make_result

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
TEXT = (
    "before\n<!-- benchmarks: latency-cpu summary -->\nold\n<!-- end -->\nafter\n<!-- benchmarks: b -->\n<!-- end -->\n"
)


@pytest.mark.parametrize(
    ("measure", "scale", "rows"),
    [
        (
            "latency",
            1,
            [
                "PyTorch eager | fp32 | 500 | - | - | 1 | reference | 50.0 | 10.0",
                "ONNX Runtime | int8 | 125 | - | - | 4.00 (4.00 to 4.00) | 41 | 50.0 | 2.5",
                "ONNX Runtime | int8 | 125 (50.0)",
            ],
        ),
        ("throughput", 10, ["PyTorch eager | fp32 | 5.00 | 5.00 | 25%"]),
        ("startup", 1, ["ONNX Runtime | int8 | 0.12 | 0.15 | 4.00 (4.00 to 4.00)"]),
        ("memory", 1e9, ["PyTorch eager | fp32 | 500 | 500", "ONNX Runtime | int8 | 125 | 125"]),
        ("training", 1, ["ONNX Runtime | int8 | 0.125 | 0.25 (0.25 to 0.25)"]),
        ("size", 1e9, ["ONNX Runtime | int8 | 125 | 125"]),
        ("outputs", 1, ["PyTorch eager | fp32 | 500 | 500"]),
    ],
)
def test_a_table_has_the_figures(measure, scale, rows) -> None:
    result = make_result(measure, scale=scale)
    text = render(result)
    assert [row for row in rows if f"| {row} |" not in text] == []
    assert "openvino-bf16 at batch 4: this CPU has no bf16" in text
    assert summarize(result).split("\n\n")[0] in text


@pytest.mark.parametrize("measure", SERIES)
def test_a_plot_has_a_bar_for_each_contender(measure, tmp_path) -> None:
    plot_result(make_result(measure), tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width >= 1200
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**24)}
    assert {(0x9A, 0xA5, 0xB1), (0x25, 0x63, 0xA8)} <= colours
    assert ((0xD9, 0x77, 0x06) in colours) == (measure == "latency")


def test_a_busy_machine_makes_no_result() -> None:
    busy = environment(busy_before=3.0)
    assert "busy machine (others used 3.0 CPUs): not a result" in summarize(make_result("latency", environment=busy))
    assert "busy machine" not in summarize(make_result("latency"))
    for bytes_alone in ("memory", "size"):
        assert "busy machine" not in summarize(make_result(bytes_alone, environment=busy))


def test_only_the_block_of_a_result_is_rewritten() -> None:
    result = make_result("latency")
    text = rewrite(TEXT, {"latency-cpu": result})
    assert text.startswith("before\n<!-- benchmarks: latency-cpu summary -->\n| 1 image at once |")
    assert "old" not in text
    assert text.endswith("<!-- end -->\nafter\n<!-- benchmarks: b -->\n<!-- end -->\n")
    assert rewrite(text, {"latency-cpu": result}) == text
    assert places(text) == {"latency-cpu", "b"}


def test_the_command_writes_into_a_file(tmp_path) -> None:
    make_result("latency").write(tmp_path / "latency-cpu.json")
    (tmp_path / "README.md").write_text(TEXT)
    arguments = ["table", str(tmp_path / "latency-cpu.json"), "--into", str(tmp_path / "README.md")]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert "41" in (tmp_path / "README.md").read_text()


def test_a_file_without_a_place_is_an_error(tmp_path) -> None:
    make_result("size").write(tmp_path / "size-cpu.json")
    (tmp_path / "README.md").write_text(TEXT)
    result = CliRunner().invoke(main, ["table", str(tmp_path / "size-cpu.json"), "--into", str(tmp_path / "README.md")])
    assert result.exit_code == 2
    assert "write two lines where its table belongs" in result.output
    assert (tmp_path / "README.md").read_text() == TEXT


def test_a_result_is_published_as_three_files_that_the_commands_make_again(tmp_path) -> None:
    published = tmp_path / "new" / "size.json"
    publish(make_result("size"), published)
    assert {path.name for path in published.parent.iterdir()} == {"size.json", "size.md", "size.png"}
    assert read_result(published).environment.busy_after is not None
    assert (
        CliRunner().invoke(main, ["table", str(published)]).output.strip() in published.with_suffix(".md").read_text()
    )
    assert CliRunner().invoke(main, ["plot", str(published), "-o", str(tmp_path / "again.png")]).exit_code == 0
    assert (tmp_path / "again.png").read_bytes() == published.with_suffix(".png").read_bytes()


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_committed_table_is_its_results(path) -> None:
    assert path.with_suffix(".md").read_text() == render(read_result(path))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_tables_in_the_documents_are_the_committed_results(document) -> None:
    text = document.read_text()
    results = {name: read_result(ROOT / "benchmarks" / "results" / f"{name}.json") for name in places(text)}
    assert rewrite(text, results) == text
    assert not any(result.was_disturbed for result in results.values())
