"""Tables and plots say what the samples say, and nothing in a document is typed."""

from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks.cli import main
from benchmarks.plot import draw
from benchmarks.report import places, publish, rewrite
from benchmarks.results import Measure, read_result
from benchmarks.table import summary, tables
from tests.benchmarks.fakes import environment, make_result

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = (
    "before\n<!-- benchmarks: latency-cpu summary -->\nold\n<!-- end -->\nafter\n<!-- benchmarks: b -->\n<!-- end -->\n"
)


def test_a_latency_table_has_every_figure() -> None:
    text = tables(make_result("latency"))
    assert "| PyTorch eager | fp32 | 500 | - | - | 1 | reference | 50.0 | 10.0 |" in text
    assert "| ONNX Runtime | int8 | 125 | - | - | 4.00 (4.00 to 4.00) | 41 | 50.0 | 2.5 |" in text
    assert "| ONNX Runtime | int8 | 125 (50.0) |" in text
    assert "openvino-bf16 at batch 4: this CPU has no bf16" in text


def test_throughput_is_a_share_of_the_matrix_rate() -> None:
    text = tables(make_result("throughput", scale=10))
    assert "| PyTorch eager | fp32 | 5.00 | 5.00 | 25% |" in text


def test_a_training_step_is_compared_with_the_plain_loop() -> None:
    assert "| ONNX Runtime | int8 | 0.125 | 0.25 (0.25 to 0.25) |" in tables(make_result("training"))


@pytest.mark.parametrize("measure", get_args(Measure))
def test_every_measure_has_a_table_a_summary_and_a_plot(measure, tmp_path) -> None:
    result = make_result(measure)
    assert "| ONNX Runtime | int8 |" in summary(result)
    assert summary(result).split("\n\n")[0] in tables(result)
    draw(result, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width >= 1200
        assert len(picture.convert("RGB").getcolors(2**24)) > 8


def test_a_busy_machine_makes_no_result() -> None:
    busy = make_result("latency", environment=environment(busy_before=3.0))
    assert "busy machine (others used 3.0 CPUs): not a result" in summary(busy)
    assert "busy machine" not in summary(make_result("latency"))


def test_a_busy_machine_does_not_change_bytes() -> None:
    busy = environment(busy_before=3.0)
    assert "busy machine" not in summary(make_result("memory", environment=busy))
    assert "busy machine" not in summary(make_result("size", environment=busy))


def test_only_the_block_of_a_result_is_rewritten() -> None:
    result = make_result("latency")
    text = rewrite(TEXT, {"latency-cpu": result})
    assert text.startswith("before\n<!-- benchmarks: latency-cpu summary -->\n| 1 image at once |")
    assert "old" not in text
    assert text.endswith("<!-- end -->\nafter\n<!-- benchmarks: b -->\n<!-- end -->\n")
    assert rewrite(text, {"latency-cpu": result}) == text
    assert places(text) == {"latency-cpu", "b"}


def test_the_command_writes_into_a_file(tmp_path) -> None:
    (tmp_path / "latency-cpu.json").write_bytes(make_result("latency").to_json())
    (tmp_path / "README.md").write_text(TEXT)
    arguments = ["table", str(tmp_path / "latency-cpu.json"), "--into", str(tmp_path / "README.md")]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert "41" in (tmp_path / "README.md").read_text()


def test_a_file_without_a_place_is_an_error(tmp_path) -> None:
    (tmp_path / "size-cpu.json").write_bytes(make_result("size").to_json())
    (tmp_path / "README.md").write_text(TEXT)
    result = CliRunner().invoke(main, ["table", str(tmp_path / "size-cpu.json"), "--into", str(tmp_path / "README.md")])
    assert result.exit_code == 2
    assert "write two lines where its table belongs" in result.output
    assert (tmp_path / "README.md").read_text() == TEXT


def test_a_result_is_published_as_three_files(tmp_path) -> None:
    publish(make_result("size"), tmp_path / "new" / "size.json")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"size.json", "size.md", "size.png"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_tables_in_the_documents_are_the_committed_results(document) -> None:
    text = document.read_text()
    results = {name: read_result(ROOT / "benchmarks" / "results" / f"{name}.json") for name in places(text)}
    assert rewrite(text, results) == text
    assert not any(result.was_disturbed for result in results.values())
