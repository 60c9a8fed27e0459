"""The folder of a run: everything that training reads again or a person wants to look at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock, Timeout

from dmgan_runtime.aliases import aliases_to_json
from dmgan_runtime.atomic import replacing
from dmgan_runtime.errors import CheckpointError, SettingsError, shortened
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.settings import Settings, differences, read_settings

# What may change between one start of a run and the next without making it another run.
_MAY_CHANGE = frozenset(
    {
        "data.broken_limit",
        "data.cache",
        "damsm.epochs",
        "damsm.steps",
        "damsm.checkpoint_every",
        "gan.epochs",
        "gan.steps",
        "gan.checkpoint_every",
        "gan.sample_every",
        "gan.snapshot_every",
    }
)


_DIGITS = 18


class _Provenance(msgspec.Struct):
    """The fields that are read again; any others are kept as they are."""

    data: dict[str, Any] = {}
    adopted: dict[str, Any] = {}
    went_on_with: list[str] = []


class RunFolder:
    """The files of a run.

    Attributes:
        root: The folder.
        settings_file: The resolved settings.
        vocabulary_file: The words, as a bundle holds them.
        aliases_file: What captions may have in place of words, as a bundle holds it, if there are any; it may be put
            here at any time.
        provenance_file: What the run was trained on.
        data_file: The data set's folder when the run was last started, on that machine.
        captions_file: Some captions of the training set, one a line; int8 is calibrated on them.
        initial_generator: The weights that the second phase begins with, if they are not random.
        log_file: One JSON object a line.
        samples: Pictures of fixed captions.
        tensorboard: Event files.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings_file = root / "settings.yaml"
        self.vocabulary_file = root / "vocab.json"
        self.aliases_file = root / "aliases.json"
        self.provenance_file = root / "provenance.json"
        self.data_file = root / "data_folder.txt"
        self.captions_file = root / "captions.txt"
        self.initial_generator = root / "gan" / "initial.pt"
        self.log_file = root / "log.jsonl"
        self.samples = root / "samples"
        self.tensorboard = root / "tensorboard"
        self._place: tuple[int, int] | None = None

    def checkpoint(self, phase: str) -> Path:
        """The newest checkpoint of a phase, `damsm` or `gan`."""
        return self.root / phase / "checkpoint.pt"

    def snapshot(self, step: int) -> Path:
        """The averaged generator as it was after so many steps."""
        return self.root / "gan" / "snapshots" / f"step-{step:07d}.pt"

    def snapshots(self) -> list[int]:
        """The steps of the snapshots that were kept."""
        return sorted(int(path.stem.removeprefix("step-")) for path in self.snapshot(0).parent.glob("step-*.pt"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training in this folder; the lock ends with the process, however it ends.

        Raises:
            SettingsError: if another process holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise SettingsError(
                f"{self.root}: another process trains here; wait for it or choose another --run"
            ) from error
        self._place = self._find_place()
        try:
            yield
        finally:
            lock.release()

    def in_place(self) -> bool:
        """Whether the folder that was locked is still there: it may be moved or removed while a training runs."""
        return self._place is None or self._find_place() == self._place

    def _find_place(self) -> tuple[int, int] | None:
        try:
            found = self.root.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def settle(
        self,
        settings: Settings,
        tokenizer: Tokenizer,
        provenance: Mapping[str, Any],
        captions: Sequence[str],
        data_folder: Path,
    ) -> None:
        """Writes what a new run is, or checks that an old one goes on with its own; writes nothing if it does not.

        Before a first checkpoint every setting and the data may change, and settings of the second phase before one of
        its own; so may the data of a run that adopted its encoders. Then lengths of phases and intervals may, but not
        the first phase's once the second has one: the generator belongs to the encoders that it was trained with.

        Args:
            settings: Resolved.
            tokenizer: With the data set's vocabulary and aliases.
            provenance: Versions, and under "data" what the data set is.
            captions: Some of the training set's.
            data_folder: Where the data set is; it may have been moved or renamed since the run began.

        Raises:
            SettingsError: naming each setting that differs, or that the data set does.
        """
        self.check_settings(settings)
        before = self.provenance()
        if self.checkpoint("gan").exists() or (self.checkpoint("damsm").exists() and not self.adopted):
            self._check_data(before.get("data", {}), provenance["data"], tokenizer, captions)
        write_whole(self.settings_file, settings.to_yaml().encode())
        write_whole(self.vocabulary_file, tokenizer.to_json())
        if tokenizer.aliases:
            write_whole(self.aliases_file, aliases_to_json(tokenizer.aliases))
        write_whole(self.provenance_file, json.dumps(_continued(before, provenance), indent=2).encode())
        write_whole(self.captions_file, "".join(f"{text}\n" for text in _lines(captions)).encode())
        write_whole(self.data_file, str(data_folder.resolve()).encode())

    def _check_data(
        self, before: Mapping[str, Any], now: Mapping[str, Any], tokenizer: Tokenizer, captions: Sequence[str]
    ) -> None:
        if self.vocabulary_file.exists() and self.vocabulary().words != tokenizer.words:
            raise SettingsError(
                f"{self.root}: the data set has other words than when this run began; choose another --run"
            )
        if not self._same_data(before, now, captions):
            raise SettingsError(
                f"{self.root}: the data set was {before} when this run began, and is now {now}; choose another --run"
            )

    def _same_data(self, before: Mapping[str, Any], now: Mapping[str, Any], captions: Sequence[str]) -> bool:
        """Whether the data are those that the run began with, whatever their folder is called."""
        differ = {key for key in before if before[key] != now.get(key)} - {"name"}
        if differ or not before or "sha256" in before:
            return not differ
        return not self.captions() or self.captions() == _lines(captions)  # a run that is older than the digest

    def check_settings(self, settings: Settings) -> None:
        """Whether this run, if it has begun, can go on with these settings.

        Raises:
            SettingsError: naming each setting that may not change.
        """
        begun, second = self.begun(), self.checkpoint("gan").exists()
        if begun is None or not (second or self.checkpoint("damsm").exists()):
            return
        may_change = ("gan.", "data.") if self.adopted else ("gan.",)

        def fixed(key: str) -> bool:
            if key.startswith(may_change) and not second:
                return False
            if key.startswith("damsm.") and second:
                return True
            if key in ("gan.epochs", "gan.steps") and settings.gan.decay_steps:
                return True  # the decay ends with the last step
            return key not in _MAY_CHANGE

        changed = {key: values for key, values in differences(begun, settings).items() if fixed(key)}
        if changed:
            listed = "; ".join(f"{key} was {old!r} and is now {new!r}" for key, (old, new) in changed.items())
            raise SettingsError(
                f"{self.root}: this run has other settings ({listed}); go on with its own, which are in"
                " settings.yaml and which `fit` takes without --preset, --recipe and --set, or choose another folder"
            )

    def begun(self) -> Settings | None:
        """The resolved settings, or None if no run has begun here."""
        return read_settings(self.settings_file) if self.settings_file.is_file() else None

    def settings(self) -> Settings:
        """The resolved settings.

        Raises:
            CheckpointError: if this is no run folder.
        """
        settings = self.begun()
        if settings is None:
            raise CheckpointError(
                f"{self.root}: is not a run folder (it has no settings.yaml); pass a folder that `fit` wrote"
            )
        return settings

    def vocabulary(self) -> Tokenizer:
        """The run's vocabulary, with its aliases.

        Raises:
            CheckpointError: if the run has none.
            BundleError: if a file is no vocabulary, or no aliases.
        """
        if not self.vocabulary_file.is_file():
            raise CheckpointError(f"{self.root}: has no vocab.json; pass a folder that `fit` wrote, whole")
        tokenizer = Tokenizer.load(self.vocabulary_file)
        if not self.aliases_file.is_file():
            return tokenizer
        return tokenizer.with_aliases(self.aliases_file.read_bytes(), str(self.aliases_file))

    @property
    def adopted(self) -> bool:
        """Whether it began with the authors' encoders, whose vocabulary stays."""
        return "adopted" in self.provenance()

    def adopted_files(self) -> dict[str, str]:
        """SHA-256 of the authors' files that it began with, by what they hold, such as "text encoder".

        Empty if a version of dmgan began it that kept their names alone.
        """
        adopted = self.provenance().get("adopted", {})
        files = {name.replace("_", " "): file for name, file in adopted.items() if isinstance(file, dict)}
        return {name: str(file["sha256"]) for name, file in files.items()}

    def data_folder(self) -> Path | None:
        """Where the data set was when the run was last started; None if it does not say."""
        return Path(self.data_file.read_text(encoding="utf-8")) if self.data_file.exists() else None

    def captions(self) -> tuple[str, ...]:
        """Some captions of the training set; none if the run was begun by a version that kept none."""
        if not self.captions_file.exists():
            return ()
        return tuple(self.captions_file.read_text(encoding="utf-8", errors="replace").splitlines())

    def provenance(self) -> dict[str, Any]:
        """What the run was trained on; empty if the run does not say.

        Raises:
            CheckpointError: if the file is damaged.
        """
        if not self.provenance_file.exists():
            return {}
        try:
            content = self.provenance_file.read_bytes()
            msgspec.json.decode(content, type=_Provenance)
            return msgspec.json.decode(content, type=dict[str, Any])
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{self.provenance_file}: does not say what the run was trained on ({shortened(error)}); restore it"
                " from a copy, or, unless the run was adopted, remove it: the run goes on without it"
            ) from error

    def log_entries(self) -> Iterator[tuple[int, str, dict[str, Any] | None]]:
        """Each line of the log that is not empty: its number, its text, and the entry; None if it is none."""
        if self.log_file.exists():
            text = self.log_file.read_text(encoding="utf-8", errors="replace")
            for number, line in enumerate(text.split("\n"), start=1):
                if line.strip():
                    yield number, line, _entry(line)


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line, parse_int=_bounded)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(entry, dict) and isinstance(entry.get("phase"), str) and type(entry.get("step")) is int
    return entry if whole else None


def _bounded(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _continued(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """A run's provenance: what it began with, and each set of other versions that it went on with."""

    def versions(provenance: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {provenance[name]}" for name in now if name != "data")

    began = {**now, **before}
    later = list(began.get("went_on_with", []))
    if versions(now) != (later[-1] if later else versions(began)):
        later.append(versions(now))
    data = {"data": now["data"]} if "data" in now else {}  # by its present name
    return {**began, **data, **({"went_on_with": later} if later else {})}


def _lines(captions: Sequence[str]) -> tuple[str, ...]:
    return tuple(" ".join(text.split()) for text in captions)


def share_encoders(encoders: RunFolder, run: RunFolder) -> None:
    """Gives a run the trained encoders of another, whole or not at all.

    Raises:
        CheckpointError: if the run has begun with other encoders.
    """
    source, target = encoders.checkpoint("damsm"), run.checkpoint("damsm")
    if target.exists():
        if target.read_bytes() != source.read_bytes():
            raise CheckpointError(
                f"{target}: is not {source}, which all runs here share; remove {run.root} or choose another --out"
            )
        return
    with replacing(target, locked=True) as scratch:
        shutil.copyfile(source, scratch)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a small file whole or not at all, even if the power fails."""
    with replacing(path, durable=True, locked=True) as scratch:
        scratch.write_bytes(content)
