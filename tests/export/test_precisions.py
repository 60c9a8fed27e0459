"""A bundle in fp32, fp16 and int8, exported by the command as a user exports it."""

import shutil
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from dmgan_runtime import Generator
from dmgan_runtime.errors import ExportError
from dmgan_runtime.manifest import Manifest, ModelSpec, parse_manifest
from dmgan_runtime.onnx_file import OPERATORS
from dmgan_train.run_folder import RunFolder
from export import cli, graph_files
from export.bundle import write_bundle
from export.graph_files import Variant, rewritten_graphs
from export.onnx_file import write_onnx
from export.sources import read_model
from tests.export.models import MAX_WORDS, small_model

CAPTIONS = [f"a {colour} square on {ground}" for colour in ("red", "green", "blue") for ground in ("white", "a")] * 3
GENERATOR_ROLES = ModelSpec(stages=3).generator_roles


@pytest.fixture(scope="module")
def exported(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("precisions")
    copy = RunFolder(shutil.copytree(run.root, folder / "run"))
    # The first has no known word, and the second no word at all.
    copy.captions_file.write_text("".join(f"{text}\n" for text in ["zebra", "...", *CAPTIONS]))
    result = CliRunner().invoke(
        cli.main, [str(copy.root), "-o", str(folder / "b"), "--name", "squares", "--fp16", "--int8"]
    )
    assert result.exit_code == 0, result.output
    return folder / "b", result


@pytest.fixture(scope="module")
def manifest(exported) -> Manifest:
    return parse_manifest((exported[0] / "manifest.json").read_bytes(), "manifest.json")


def test_every_generator_is_there_in_every_precision(manifest) -> None:
    graphs = {(graph.role, graph.precision) for graph in manifest.graphs}
    generators = {(role, precision) for role in GENERATOR_ROLES for precision in ("fp32", "fp16", "int8")}
    assert graphs == generators | {("text_encoder", "fp32")}


def test_the_files_are_what_they_are_called(exported, manifest) -> None:
    for graph in manifest.graphs:
        model = onnx.load(exported[0] / graph.file.path)
        kernels = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4}
        operators = {node.op_type for node in model.graph.node}
        assert (onnx.TensorProto.FLOAT16 in kernels) == (graph.precision == "fp16")
        forms = {"fp32": "phases", "fp16": "transposed", "int8": "phases"}
        assert graph.up_blocks == (None if graph.role == "text_encoder" else forms[graph.precision])
        assert ("ConvTranspose" in operators) == (graph.up_blocks == "transposed")
        if graph.precision == "int8":
            layers = manifest.provenance[graph_files.INT8_LAYERS][graph.role]
            assert ("QuantizeLinear" in operators) == (layers["in_int8"] > 0)
            names = {node.name for node in model.graph.node if node.op_type == "Conv"}
            assert set(layers["in_fp32"]) <= names
            assert layers["in_int8"] + len(layers["in_fp32"]) == len(names)
    assert any(layers["in_int8"] for layers in manifest.provenance[graph_files.INT8_LAYERS].values())


def test_the_runtime_takes_the_operators_that_exports_have_and_no_others(exported, manifest, tmp_path) -> None:
    """A graph with another is refused when the export opens its bundle, so what is checked here is the rest."""
    model = small_model(1)
    padded = rewritten_graphs(model.text_encoder, model.generator, MAX_WORDS, Variant("fp16", "phases"))
    write_onnx(padded["generator_0"], tmp_path / "fp16_phases.onnx")
    files = [tmp_path / "fp16_phases.onnx", *(exported[0] / graph.file.path for graph in manifest.graphs)]
    operators = {node.op_type for file in files for node in onnx.load(file).graph.node}
    assert operators == OPERATORS


@pytest.mark.parametrize(("precision", "required"), [("fp16", 50.0), ("int8", 35.0)])
def test_the_images_parity_is_promised_and_kept(manifest, precision, required) -> None:
    entries = [entry for entry in manifest.parity if (entry.precision, entry.output) == (precision, "image")]
    assert [entry.role for entry in entries] == list(GENERATOR_ROLES)
    for entry in entries:
        assert entry.required_psnr_db == required
        assert entry.max_abs_error == 0 or entry.psnr_db >= required


def test_fp16_is_also_compared_with_every_operator_rounded(manifest) -> None:
    rounded = manifest.provenance[graph_files.EVERY_OPERATOR_ROUNDED]
    assert list(rounded) == list(GENERATOR_ROLES)
    assert all(50 <= quality < 120 for quality in rounded.values())
    # One stage after the other, so what the first rounds goes through all.
    assert 40 <= manifest.image_psnr_db["fp16"] < rounded[GENERATOR_ROLES[-1]]


def test_it_says_what_it_made(exported, manifest) -> None:
    path, result = exported
    lines = [" ".join(line.replace("│", " ").split()) for line in result.stdout.splitlines()]
    assert "Parity with PyTorch" in lines
    assert lines[-1].startswith(f"{path}: written. Next: dmgan-generate -b {path} ")
    for role in GENERATOR_ROLES:
        for precision in ("fp32", "fp16", "int8"):
            assert any(line.startswith(f"{role} {precision} image ") for line in lines), (role, precision)
        assert any(line.startswith(f"{role} in int8: ") and " convolutions, " in line for line in lines)
    assert any(line.startswith("fp16, every operator rounded as on a GPU: images of ") for line in lines)
    operations = manifest.provenance[graph_files.OPERATIONS]
    assert f"{operations / 1e9:.3g} GFLOP an image" in lines
    assert "fp32 (up blocks: phases) is for CPUs" in lines
    assert "fp16 (up blocks: transposed) is for GPUs" in lines
    assert any(line.startswith("int8 (up blocks: phases) is for CPUs") for line in lines)
    card = (path / "MODEL_CARD.md").read_text()
    assert card.startswith("# squares\n")
    assert "| operations_per_image |" in card


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_it_serves_in_that_precision(exported, precision) -> None:
    with Generator.open(exported[0], backend="onnxruntime", device="cpu", precision=precision) as server:
        assert server.generate("a red square", seed=1)[0].image.size == (32, 32)


def test_fp16_that_rounds_too_much_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("export.parity.REQUIRED_PSNR", {"fp16": 200.0})
    monkeypatch.setattr(graph_files, "measure_parity", lambda *_: [])
    with pytest.raises(ExportError, match=r"generator_0 in fp16, every operator rounded: .* 200 dB are needed"):
        write_bundle(small_model(1), tmp_path / "b", lambda _: None, ["fp16"])
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_changes_after_its_own_check_is_found_from_end_to_end(tmp_path, monkeypatch) -> None:
    original = graph_files.measure_parity

    def measure_and_spoil(path, graph, precision, cases):
        entries = original(path, graph, precision, cases)
        if graph.role == "generator_0":
            model = onnx.load(path)
            next(node for node in model.graph.node if node.op_type == "Tanh").op_type = "Sigmoid"
            onnx.save(model, path)
        return entries

    monkeypatch.setattr(graph_files, "measure_parity", measure_and_spoil)
    with pytest.raises(ExportError, match=r"the bundle's image at 8 pixels in fp32 differs from PyTorch by"):
        write_bundle(small_model(1), tmp_path / "b", lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_captions_without_a_known_word_do_not_count(run, tmp_path) -> None:
    copy = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    copy.captions_file.write_text("a red square\n" * 15 + "zebra\n" * 9)
    with pytest.raises(ExportError, match=r"at least 16 captions .* comes with 15 that have a known word"):
        write_bundle(read_model(copy, "squares", ""), tmp_path / "b", lambda _: None, ["int8"])


@pytest.mark.parametrize(
    ("asked", "forms"),
    [("auto", ["phases", "transposed", "phases"]), ("phases", ["phases"] * 3)],
)
def test_every_precision_has_its_form(asked, forms) -> None:
    variants = graph_files.choose_variants(("fp32", "fp16", "int8"), asked)
    assert [variant.up_blocks for variant in variants] == forms


def test_the_form_that_is_asked_for_is_exported(run, tmp_path, monkeypatch) -> None:
    def stop(*arguments: object, **_: object) -> None:
        raise ExportError(f"up blocks are {arguments[-1]}")

    monkeypatch.setattr(cli, "write_bundle", stop)
    result = CliRunner().invoke(cli.main, [str(run.root), "-o", str(tmp_path / "b"), "--up-blocks", "transposed"])
    assert "up blocks are transposed" in result.output


def test_int8_cannot_be_transposed(run, tmp_path) -> None:
    asked = ["--up-blocks", "transposed", "--int8"]
    result = CliRunner().invoke(cli.main, [str(run.root), "-o", str(tmp_path / "b"), *asked])
    assert result.exit_code == 2
    assert "not with int8, because no engine has an integer transposed convolution" in result.output
    assert list(tmp_path.iterdir()) == []
