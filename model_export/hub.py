"""Checkpoints from Hugging Face, into the cache that all its tools share, each proven to be what the hub says it is.

The cache, `HF_HOME` and the other variables are those of huggingface_hub, and it makes the requests. Two things are
added. Since version 1.18 it throws a partial download away when a process ends (its issue 4196): here the part is kept
beside the file's place, and the next run fetches the rest. And it does not look at what came over plain HTTP: here
nothing gets into the cache, or out of it, that does not have the hash that the hub has for it.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Self

import httpx2
from huggingface_hub import HfApi, ModelInfo, constants, hf_hub_download, hf_hub_url, is_offline_mode
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, exported when first used
    WeakFileLock,
    build_hf_headers,
)

from model_export.errors import SourceError
from model_export.located import HubFile, Located, choose_checkpoint

_CHUNK = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True, slots=True)
class Content:
    """What a file must be: its length, and its SHA-256 (large files) or its git object id (small ones)."""

    size: int
    digest: str

    def is_in(self, path: Path) -> bool:
        """Whether a file has this content."""
        if path.stat().st_size != self.size:
            return False
        if len(self.digest) == 64:
            digest = hashlib.sha256()
        else:
            digest = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest() == self.digest


@dataclass(frozen=True, slots=True)
class Hub:
    """A hub, and the cache in front of it.

    Attributes:
        endpoint: Its URL.
        cache: Folder of huggingface_hub's layout.
        offline: Whether to do with what is in the cache.
        token: Of access; None for the one that huggingface_hub finds (`HF_TOKEN`, or `hf auth login`), False for none.
    """

    endpoint: str
    cache: Path
    offline: bool = False
    token: str | Literal[False] | None = None

    @classmethod
    def from_environment(cls) -> Self:
        """As `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE` and `HF_HUB_OFFLINE` say."""
        return cls(constants.ENDPOINT, Path(constants.HF_HUB_CACHE), is_offline_mode())

    def locate(self, hub_id: str, revision: str, report: Callable[[str], None]) -> Located:
        """The checkpoint of a repository, from the cache if it is there whole.

        Args:
            hub_id: `owner/name`.
            revision: Branch, tag or commit.
            report: Told what is being done.

        Raises:
            SourceError: Says which: no such repository or revision, no access, no connection, no checkpoint in it, or
                bytes that are not those the hub announced.
        """
        if self.offline:
            return self._from_cache(hub_id, revision, "HF_HUB_OFFLINE is set")
        with self._explained(hub_id, revision):
            try:
                info = HfApi(self.endpoint, token=self.token).model_info(
                    hub_id, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
                )
            except httpx2.TransportError as error:
                located = self._from_cache(hub_id, revision, f"no connection to {self.endpoint} ({error})")
                report(f"WARNING: no connection to {self.endpoint}: taking {hub_id} from the cache")
                return located
            return self._online(info, revision, report)

    def _online(self, info: ModelInfo, revision: str, report: Callable[[str], None]) -> Located:
        files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        name = choose_checkpoint(files, f"{info.id} at {self.endpoint}")
        chosen = files[name]
        digest = chosen.blob_id if chosen.lfs is None else chosen.lfs.sha256
        if info.sha is None or chosen.size is None or digest is None or not _DIGEST.fullmatch(digest):
            raise SourceError(f"expected commit, size and hash of {name} from {self.endpoint}, found {chosen}")
        content = Content(chosen.size, digest)
        hub = HubFile(info.id, revision, info.sha, name, _licence(info))
        blob = self._folder(info.id) / "blobs" / digest
        report(f"{hub.id}@{hub.commit[:12]}: {name}, {content.size / 1e6:.1f} MB")
        lock = self.cache / ".locks" / self._folder(info.id).name / f"{digest}.birefnet.lock"
        for folder in (blob.parent, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if blob.exists() and not content.is_in(blob):
                report(f"WARNING: {blob} is damaged; fetching it again")
                blob.unlink()
            if not blob.exists():
                self._fetch(hub, content, blob, report)
        # Finds the blob in its place: links the snapshot to it and notes the branch, as all tools of the hub expect.
        path = Path(
            hf_hub_download(
                hub.id, name, revision=revision, cache_dir=self.cache, endpoint=self.endpoint, token=self.token
            )
        )
        if not path.samefile(blob) and not content.is_in(path):
            raise SourceError(
                f"expected {name} as {content.digest} in {path}, found other bytes; delete it and try again"
            )
        return Located(path, hub)

    def _fetch(self, hub: HubFile, content: Content, blob: Path, report: Callable[[str], None]) -> None:
        """From the hub into the blob's place, by way of a partial file that the next run continues."""
        partial = blob.with_name(f"{blob.name}.birefnet.incomplete")
        done = partial.stat().st_size if partial.exists() else 0
        if done > content.size:
            partial.unlink()
            done = 0
        if done:
            report(f"continuing at {done / 1e6:.1f} MB")
        try:
            self._append(hub, content, partial, done)
        except HfHubHTTPError as error:
            if error.response.status_code != _RANGE_NOT_SATISFIABLE:
                raise
            # The hub has less than it announced. The check below says so.
        except OSError as error:
            if error.errno is not None:
                raise
            # The library's own complaint about the length, whose advice is for callers of the library.
        if not content.is_in(partial):
            found = partial.stat().st_size
            partial.unlink()
            raise SourceError(
                f"expected {content.size} bytes with hash {content.digest} as {hub.file} of {hub.id}, "
                f"found {found} other ones; nothing was kept"
            )
        partial.replace(blob)

    def _append(self, hub: HubFile, content: Content, partial: Path, done: int) -> None:
        with partial.open("ab") as stream:
            http_get(
                hf_hub_url(hub.id, hub.file, revision=hub.commit, endpoint=self.endpoint),
                stream,
                resume_size=done,
                headers=build_hf_headers(token=self.token),
                expected_size=content.size,
                displayed_filename=hub.file,
            )

    def _from_cache(self, hub_id: str, revision: str, why: str) -> Located:
        """What an earlier run or another tool left in the cache."""
        folder = self._folder(hub_id)
        reference = folder / "refs" / revision
        commit = reference.read_text().strip() if reference.is_file() else revision
        snapshot = folder / "snapshots" / commit
        if not snapshot.is_dir():
            raise SourceError(f"{why}, and {hub_id}@{revision} is not in the cache ({self.cache})")
        names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
        name = choose_checkpoint(names, f"the cached part of {hub_id}@{revision} ({why})")
        path = snapshot / PurePosixPath(name)
        blob = path.resolve()
        if _DIGEST.fullmatch(blob.name) and not Content(blob.stat().st_size, blob.name).is_in(blob):
            raise SourceError(f"{why}, and {blob} is damaged: expected hash {blob.name}, found other bytes")
        return Located(path, HubFile(hub_id, revision, commit, name))

    def _folder(self, hub_id: str) -> Path:
        return self.cache / repo_folder_name(repo_id=hub_id, repo_type="model")

    @contextmanager
    def _explained(self, hub_id: str, revision: str) -> Iterator[None]:
        """What went wrong, and what to do about it, in the place of the library's own errors."""
        try:
            yield
        except GatedRepoError as error:
            raise SourceError(
                f"{hub_id} is gated: accept its terms on {self.endpoint}/{hub_id}, and set HF_TOKEN to a token of yours"
            ) from error
        except RepositoryNotFoundError as error:
            raise SourceError(
                f"expected a repository {hub_id} on {self.endpoint}, found none; for a private one set HF_TOKEN"
            ) from error
        except RevisionNotFoundError as error:
            raise SourceError(f"expected a revision {revision} of {hub_id} on {self.endpoint}, found none") from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            hint = "; check HF_TOKEN" if status in {401, 403} else ""
            raise SourceError(f"{self.endpoint} answered {status} for {hub_id}{hint}") from error
        except LocalEntryNotFoundError as error:
            raise SourceError(f"{self.endpoint} did not give {hub_id} a place in the cache: {error}") from error
        except HFValidationError as error:
            raise SourceError(f"expected a Hugging Face id, found {hub_id}: {error}") from error
        except (httpx2.InvalidURL, json.JSONDecodeError) as error:
            raise SourceError(f"expected a hub at {self.endpoint}, found none: {error}") from error
        except httpx2.TransportError as error:
            raise SourceError(
                f"the connection to {self.endpoint} broke ({error}); what came is kept, the next run continues there"
            ) from error


def _licence(info: ModelInfo) -> str | None:
    """Of the model card. `other` says nothing without the card's text, whose name for it may."""
    card = info.card_data
    if card is None:
        return None
    licence = card.license_name if card.license == "other" else card.license
    return licence if isinstance(licence, str) and licence else None
