"""Every arrangement of engines is measured with every number of clients."""

from click.testing import CliRunner

from dmgan_runtime.cpus import usable_cpus
from scripts.streams import main


def test_the_table_has_a_row_for_each() -> None:
    arguments = ["--rounds", "1", "--seconds", "0.1", "--clients", "1", "--clients", "2", "--backend", "onnxruntime"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    rows = [line.strip("| ").split(" | ") for line in result.output.splitlines()[2:]]
    cpus = usable_cpus()
    names = [f"onnxruntime, {streams} x {cpus // streams} threads" for streams in dict.fromkeys((1, cpus))]
    assert [row[:2] for row in rows] == [[name, clients] for clients in ("1", "2") for name in names]
    for _, _, rate, p50, p95 in rows:
        assert float(rate.replace(",", "")) > 0
        assert 0 < float(p50) <= float(p95)
