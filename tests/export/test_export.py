"""A run becomes a bundle whose graphs compute what PyTorch computes."""

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import dmgan_runtime
from dmgan_runtime.errors import BundleError, ExportError
from dmgan_runtime.manifest import parse_manifest
from dmgan_runtime.onnx_file import check_onnx_file
from dmgan_runtime.self_test import run_self_test
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.models import GeneratorNetwork, TextEncoder
from dmgan_train.sampling import generate
from export import bundle as bundle_module
from export import graph_files
from export.bundle import write_bundle
from export.cli import main
from export.graph_files import GraphFiles, Variant, rewritten_graphs
from export.graphs import build_graphs
from export.onnx_file import write_onnx
from export.parity import measure_parity, random_captions, reference_case
from export.sources import read_model
from tests import golden_data
from tests.export.models import compare_few, small_model, small_spec


def test_a_bundle_holds_every_graph_and_their_parity(bundle) -> None:
    path, manifest = bundle, parse_manifest((bundle / "manifest.json").read_bytes(), "manifest.json")
    assert [graph.role for graph in manifest.graphs] == list(manifest.model.roles)
    assert len(manifest.parity) == 2 + 2 + 5 + 4
    assert all(entry.max_abs_error <= entry.tolerance <= 1e-2 for entry in manifest.parity)
    assert all(entry.batches == (1, 3, 16) for entry in manifest.parity)
    files = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    graphs = {f"onnx/{role}.onnx" for role in manifest.model.roles}
    assert files == {"manifest.json", "vocab.json", "aliases.json", "MODEL_CARD.md", "samples.png"} | graphs


def test_the_served_image_is_the_trained_one(bundle, run) -> None:
    model = read_model(run, "squares", "")
    with dmgan_runtime.Generator.open(bundle, quality="exact") as generator:
        served = generator.generate("a red square on white", seed=5)[0]
    tokens = model.tokenizer.encode_batch(["a red square on white"], model.max_words)
    expected = generate(model.generator, model.text_encoder, tokens, [5]).images[-1][0].numpy()
    actual = np.asarray(served.image, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
    assert np.abs(actual - expected).max() < 0.5 / 127.5 + 1e-4


def test_the_emoji_of_the_data_are_served(bundle) -> None:
    with dmgan_runtime.Generator.open(bundle) as generator:
        (made,) = generator.generate("a 🟥 and 🟨", seed=5)
    assert (made.words, made.unknown_words) == (("a", "red", "square", "and"), ("🟨",))
    assert "and, by their names, 2 emoji (`aliases.json`)" in (bundle / "MODEL_CARD.md").read_text()


def test_a_bundle_knows_what_it_generated(bundle) -> None:
    with dmgan_runtime.Generator.open(bundle) as generator:
        assert generator.manifest.self_test is not None
        assert tuple(generator.manifest.self_test.thumbnails) == generator.resolutions
        result = run_self_test(generator)
    assert result.difference is not None
    assert result.difference <= result.tolerance


def test_no_folder_of_this_machine_is_published(run, monkeypatch) -> None:
    settings = run.settings()
    damsm = msgspec.structs.replace(settings.damsm, trunk_weights="/home/me/trunk.pth")
    monkeypatch.setattr(run, "settings", lambda: msgspec.structs.replace(settings, damsm=damsm))
    assert read_model(run, "squares", "-").provenance["settings"]["damsm"]["trunk_weights"] == "trunk.pth"


def test_a_bundle_is_never_changed(bundle, run) -> None:
    with pytest.raises(BundleError, match="exists already"):
        write_bundle(read_model(run, "squares", ""), bundle, lambda _: None)


def test_a_zip_serves_the_same_image(tmp_path) -> None:
    path = tmp_path / "small.zip"
    write_bundle(small_model(1), path, lambda _: None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.zip"]
    shutil.unpack_archive(path, tmp_path / "small")
    images = []
    for place in (path, tmp_path / "small"):
        with dmgan_runtime.Generator.open(place) as generator:
            images.append(generator.generate("a blue square", seed=1)[0].image.tobytes())
    assert images[0] == images[1]


def test_a_graph_that_differs_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    original = graph_files.write_onnx

    def write(graph, path):
        original(graph, path)
        if graph.role == "generator_0":
            model = onnx.load(path)
            next(node for node in model.graph.node if node.op_type == "Tanh").op_type = "Sigmoid"
            onnx.save(model, path)

    monkeypatch.setattr(graph_files, "write_onnx", write)
    with pytest.raises(ExportError, match=r"generator_0 in fp32: image differs from PyTorch by .* no bundle"):
        write_bundle(small_model(1), tmp_path / "bundle", lambda _: None)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles of everything but graphs, written in no time."""
    monkeypatch.setattr(bundle_module, "write_graphs", lambda *_: GraphFiles())
    monkeypatch.setattr(bundle_module, "_check_end_to_end", lambda *_: (None, {}))
    monkeypatch.setattr(bundle_module, "bf16_psnr", lambda *_: 50.0)


@pytest.mark.usefixtures("without_graphs")
@pytest.mark.parametrize("where", ["write_graphs", "shutil.copyfile", "model_card", "zipfile.ZipFile.write"])
def test_a_full_disk_leaves_nothing_behind(run, tmp_path, monkeypatch, where) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"export.bundle.{where}", fail)
    with pytest.raises(OSError, match="No space left"):
        write_bundle(read_model(run, "squares", ""), tmp_path / "new" / "bundle.zip", lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_not_pytorchs_doing(run, tmp_path) -> None:
    model = read_model(run, "squares", "")
    graphs = build_graphs(model.text_encoder, model.generator, model.max_words)
    with pytest.raises(FileNotFoundError):
        write_onnx(graphs["generator_0"], tmp_path / "missing" / "g.onnx")


@pytest.mark.usefixtures("without_graphs")
def test_two_exports_to_one_place_do_not_meet(run, tmp_path) -> None:
    model, refused = read_model(run, "squares", ""), []

    def report(_: str) -> None:
        with pytest.raises(BundleError, match="another process is making it") as caught:
            write_bundle(model, tmp_path / "b", lambda _: None)
        refused.append(caught)

    write_bundle(model, tmp_path / "b", report)
    assert refused
    assert (tmp_path / "b" / "manifest.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.usefixtures("without_graphs")
def test_what_came_there_meanwhile_is_not_overwritten(run, tmp_path) -> None:
    def report(step: str) -> None:
        if step == "packing":
            (tmp_path / "b.zip").write_bytes(b"somebody else's")

    with pytest.raises(BundleError, match="came into being meanwhile"):
        write_bundle(read_model(run, "squares", ""), tmp_path / "b.zip", report)
    assert (tmp_path / "b.zip").read_bytes() == b"somebody else's"
    assert [path.name for path in tmp_path.iterdir()] == ["b.zip"]


@pytest.mark.usefixtures("without_graphs")
def test_a_killed_export_leaves_no_bundle_and_the_next_one_works(run, tmp_path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from dmgan_train.run_folder import RunFolder
from export import bundle
from export.sources import read_model
bundle.write_graphs = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
bundle.write_bundle(read_model(RunFolder(Path({str(run.root)!r})), "squares", ""), Path({str(tmp_path / "b")!r}), print)
"""
    result = subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert result.returncode == -signal.SIGKILL
    assert not (tmp_path / "b").exists()
    write_bundle(read_model(run, "squares", ""), tmp_path / "b", lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_vocabulary_that_is_not_the_text_encoders_is_refused(run, tmp_path) -> None:
    model = read_model(run, "squares", "")
    longer = replace(model, tokenizer=Tokenizer([*model.tokenizer.words, "zebra"]))
    words = len(model.tokenizer)
    with pytest.raises(ExportError, match=f"has {words + 1} words and its text encoder embeds {words}"):
        write_bundle(longer, tmp_path / "b", lambda _: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("writing", "response"), [("gated", "concatenation"), ("words", "concatenation"), ("none", "concatenation")]
)
def test_every_ablation_exports(writing, response, tmp_path) -> None:
    spec = small_spec(3).__replace__(memory_writing=writing, memory_response=response)
    encoder, generator = TextEncoder(11, spec).eval(), GeneratorNetwork(spec).eval()
    cases = [reference_case(build_graphs(encoder, generator, 7), captions, 0) for captions in random_captions(11, 7)]
    graphs = rewritten_graphs(encoder, generator, 7, Variant("fp32", "phases"))
    write_onnx(graphs["generator_1"], tmp_path / "graph.onnx")
    check_onnx_file((tmp_path / "graph.onnx").read_bytes(), "graph.onnx")
    entries = measure_parity(tmp_path / "graph.onnx", graphs["generator_1"], "fp32", cases)
    names = [entry.output for entry in entries]
    assert names == ["image", "features", "attention"] + (["writing_gate"] if writing == "gated" else [])


OFFICIAL = {
    "--official-generator": "netG.pth",
    "--official-text-encoder": "text_encoder.pth",
    "--captions": "captions.pickle",
}


def export_official(output: Path, *more: str, **replaced: Path):
    flags = [text for flag, name in OFFICIAL.items() for text in (flag, str(golden_data.FOLDER / name))]
    for flag, path in replaced.items():
        flags[flags.index("--" + flag.replace("_", "-")) + 1] = str(path)
    return CliRunner().invoke(main, [*flags, "-o", str(output), "--max-words", "18", *more])


def test_the_published_weights_serve_the_golden_images(tmp_path, monkeypatch) -> None:
    compare_few(monkeypatch)
    result = export_official(tmp_path / "golden")
    assert result.exit_code == 0, result.output
    golden = golden_data.load("outputs.npz")
    columns = ("tokens", "length", "noise", "condition_noise")
    with dmgan_runtime.Generator.open(tmp_path / "golden", quality="exact") as generator:
        for names in (*([name] for name in golden_data.CAPTIONS), golden_data.CAPTIONS):
            inputs = [np.concatenate([golden[f"{name}_{column}"] for name in names]) for column in columns]
            images = generator.synthesize(*inputs).images
            for row, name in enumerate(names):
                for side, image in images.items():
                    expected = golden[f"{name}_image_{side}"][0].numpy()
                    stride = side // expected.shape[-1]
                    np.testing.assert_allclose(image[row, :, ::stride, ::stride], expected, atol=1e-4, rtol=0)


def test_a_vocabulary_of_another_size_is_refused(tmp_path) -> None:
    words = ["<end>", "bird"]
    pickled = [[], [], dict(enumerate(words)), {word: index for index, word in enumerate(words)}]
    (tmp_path / "captions.pickle").write_bytes(pickle.dumps(pickled))
    result = export_official(tmp_path / "b", captions=tmp_path / "captions.pickle")
    assert result.exit_code == 2
    assert "2 words" in result.output
    assert "embeds 60" in result.output


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    (tmp_path / "captions.pickle").write_bytes(pickle.dumps([[], [], Evil(), {}]))
    result = export_official(tmp_path / "b", captions=tmp_path / "captions.pickle")
    assert result.exit_code == 2
    assert "not plain data" in result.output
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("arguments", [[], ["--captions", str(golden_data.FOLDER / "captions.pickle")]])
def test_neither_a_run_nor_all_official_files_is_a_users_mistake(tmp_path, arguments) -> None:
    result = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "b")])
    assert result.exit_code == 2
    assert "pass a RUN, or --official-generator" in result.output


def test_an_option_that_would_do_nothing_is_a_users_mistake(run, tmp_path) -> None:
    result = CliRunner().invoke(main, [str(run.root), "-o", str(tmp_path / "b"), "--max-words", "9"])
    assert (result.exit_code, "--max-words: only with official weights" in result.output) == (2, True)
    result = export_official(tmp_path / "b", "--step", "3")
    assert (result.exit_code, "--step: only with a RUN" in result.output) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_run_is_a_users_mistake(tmp_path) -> None:
    result = CliRunner().invoke(main, [str(tmp_path), "-o", str(tmp_path / "b")])
    assert result.exit_code == 2
    assert "is not a run folder" in result.output


def test_a_bundle_serves_where_torch_and_onnx_cannot_be_imported(bundle, tmp_path) -> None:
    code = f"""
import sys
from pathlib import Path
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "dmgan_train", "export", "onnxscript"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
from dmgan_runtime import Generator
with Generator.open({str(bundle)!r}) as generator:
    generator.generate("a red square", seed=1)[0].image.save({str(tmp_path / "red.png")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert (tmp_path / "red.png").stat().st_size > 100
