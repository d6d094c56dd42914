"""Networks on the Hugging Face hub: ``hf://owner/name[@revision]``, downloaded only if the user names one."""

from __future__ import annotations

import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

from pipeline.errors import UserError
from pipeline.models.weights.conversion import FOLDER_FILES

SCHEME = "hf://"
NAME = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def fetch(name: str, *, where: str) -> Path:
    """The folder of the hub's local cache with config.json and the weights of a network, downloaded if it is missing.

    Args:
        name: ``hf://owner/name``, optionally with ``@`` and a branch, tag or commit; with a commit a run is repeatable.
        where: the option that named it, for messages.

    Raises:
        UserError: invalid name, missing network or file, no access, or no connection to the hub.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise UserError(f"{where}: got '{name}'; allowed: hf://owner/name or hf://owner/name@revision")
    repo, revision = match["repo"], match["revision"]
    advice = "or download the folder elsewhere and give its path"
    try:
        config = huggingface_hub.hf_hub_download(repo, "config.json", revision=revision)
        for file in FOLDER_FILES:
            try:
                huggingface_hub.hf_hub_download(repo, file, revision=revision)
                return Path(config).parent
            except LocalEntryNotFoundError:  # it is an EntryNotFoundError, and means: offline
                raise
            except EntryNotFoundError:
                continue
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{where}: {name}: no connection to the hub, and it is not in the cache; connect to the internet, {advice}"
        ) from error
    except EntryNotFoundError as error:
        raise UserError(f"{where}: {name} has no config.json, so smp did not write it; check the name") from error
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{where}: {name}: the hub refused it ({reason}); check name, revision and login, {advice}"
        ) from error
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{where}: {name}: no connection to the hub ({reason}); try again, {advice}") from error
    raise UserError(f"{where}: {name} has neither {' nor '.join(FOLDER_FILES)}; {advice}")
