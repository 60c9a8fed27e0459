"""The npm package: what is in it, that it installs and runs, and that its types hold."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

import dmgan_runtime
from dmgan_runtime.bundle import packaged_bundle
from tests.web.conftest import MODULE

USE = """
import { readFile } from "node:fs/promises";
import { Generator } from "dmgan";
const fetch = async (url) => new Response(await readFile(url));
const generator = await Generator.open(process.argv[2], { fetch });
const { image, words } = await generator.generate("red heart", { seed: 7 });
console.log(JSON.stringify({ width: image.width, words, level: image.data[4 * (128 * 256 + 128)] }));
await generator.close();
"""

TYPED = """
import { Generator, BundleError, type Generation } from "dmgan";
const generator = await Generator.open("https://example.org/bundle");
const generation: Generation = await generator.generate("red heart", { seed: 7n, attention: true });
const pixels: Uint8ClampedArray = generation.image.data;
for await (const stage of generator.stream("red heart")) console.log(stage.image.width, pixels.length);
for await (const picture of generator.interpolate(["a", "b"], { seeds: [1, 2n] })) new ImageData(picture.data, 1);
export { BundleError };
"""

OPTIONS = {
    "strict": True,
    "checkJs": True,
    "allowJs": True,
    "noEmit": True,
    "target": "es2024",
    "module": "nodenext",
    "lib": ["es2024", "dom", "dom.iterable", "dom.asynciterable"],
    "types": ["node"],
    "skipLibCheck": True,
    "noUnusedLocals": True,
    "noUnusedParameters": True,
}


@pytest.fixture(scope="module")
def installed(node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that installed the package from its tarball, beside the onnxruntime-web that is there."""
    project = tmp_path_factory.mktemp("project")
    packed = subprocess.run(
        ["npm", "pack", str(MODULE), "--silent"], cwd=project, capture_output=True, text=True, check=True, timeout=60
    )
    with tarfile.open(project / packed.stdout.strip()) as archive:
        archive.extractall(project / "unpacked", filter="data")
    (project / "node_modules").mkdir()
    (project / "unpacked" / "package").rename(project / "node_modules" / "dmgan")
    for package in node_modules.iterdir():
        if package.name != ".bin":
            (project / "node_modules" / package.name).symlink_to(package)
    (project / "package.json").write_text('{"type": "module"}')
    return project


def check_types(project: Path, node_modules: Path, *files: str) -> subprocess.CompletedProcess[str]:
    (project / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS, "files": files}))
    command = [str(node_modules / ".bin" / "tsc"), "--project", str(project)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_it_holds_what_it_needs_and_nothing_else(installed: Path) -> None:
    package = installed / "node_modules" / "dmgan"
    modules = {file.name for file in MODULE.glob("*.js")}
    assert {file.name for file in package.iterdir()} == modules | {"index.d.ts", "LICENSE", "README.md", "package.json"}
    manifest = json.loads((package / "package.json").read_bytes())
    assert manifest["version"] == "0.1.0"
    assert list(manifest["dependencies"]) == ["onnxruntime-web"]
    root = Path(dmgan_runtime.__file__).parents[1]
    assert (package / "LICENSE").read_bytes() == (root / "LICENSE").read_bytes()


def test_it_runs_where_it_is_installed(installed: Path) -> None:
    (installed / "use.js").write_text(USE)
    command = ["node", "use.js", packaged_bundle().as_uri()]
    used = subprocess.run(command, cwd=installed, capture_output=True, text=True, check=True, timeout=120)
    result = json.loads(used.stdout)
    assert (result["width"], result["words"]) == (256, ["red", "heart"])
    assert result["level"] > 150  # the heart's middle is red


def test_the_module_holds_to_its_types(installed: Path, node_modules: Path) -> None:
    package = installed / "checked"
    shutil.copytree(installed / "node_modules" / "dmgan", package)
    checked = check_types(package, node_modules, *sorted(file.name for file in package.glob("*.*s")))
    assert checked.returncode == 0, checked.stdout


def test_a_users_types_are_checked(installed: Path, node_modules: Path) -> None:
    (installed / "right.ts").write_text(TYPED)
    (installed / "wrong.ts").write_text(TYPED.replace("7n", "true"))
    assert check_types(installed, node_modules, "right.ts").stdout == ""
    wrong = check_types(installed, node_modules, "wrong.ts").stdout
    assert "Type 'true' is not assignable to type 'number | bigint | undefined'" in wrong
