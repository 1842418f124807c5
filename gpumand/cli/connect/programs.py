"""The programs that can be pointed at the gateway: where their settings are, and which ones they need.

Sources of the settings, looked up in November 2026:
Open WebUI https://docs.openwebui.com/reference/env-configuration/, Continue https://docs.continue.dev/reference,
Cline https://docs.cline.bot/provider-config/openai-compatible, Aider https://aider.chat/docs/config/aider_conf.html and
https://aider.chat/docs/llms/openai-compat.html, Codex https://developers.openai.com/codex/config-reference.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpumand.cli.connect.env_text import with_shell_lines, with_variables
from gpumand.cli.connect.marked_lines import CannotEdit
from gpumand.cli.connect.toml_text import with_settings
from gpumand.cli.connect.yaml_text import with_list_item, with_top_settings

NAME = "gpumand"
"""Name of the gateway in the settings of programs, and its key where a program insists on one."""


@dataclass(frozen=True, slots=True)
class Target:
    """The gateway.

    Attributes:
        url: its own address, without a path.
        key: API key; any text where the gateway asks for none.
        model: model to select; "" leaves the choice to the program.
    """

    url: str
    key: str = NAME
    model: str = ""

    @property
    def openai(self) -> str:
        """Base URL of the OpenAI API."""
        return f"{self.url}/v1"


@dataclass(frozen=True, slots=True)
class User:
    """Whose settings are changed.

    Attributes:
        home: home directory.
        environ: environment variables.
        folder: current directory.
    """

    home: Path
    environ: Mapping[str, str]
    folder: Path


@dataclass(frozen=True, slots=True)
class Settings:
    """How a program is connected.

    Attributes:
        path: its settings file; None if a person has to set it.
        edit: makes the new text of the file from its text, "" for a file that does not exist yet.
        notes: what else the user has to know or do, one line each.
    """

    path: Path | None = None
    edit: Callable[[str], str] = str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """A program.

    Attributes:
        name: its name on the command line.
        title: its name in texts.
        is_present: whether this user seems to have it.
        settings: how it is connected; the path is that of ``--file``, or None. Raises CannotEdit.
        is_implied: it is connected without being named, if it is present.
    """

    name: str
    title: str
    is_present: Callable[[User], bool]
    settings: Callable[[User, Target, Path | None], Settings]
    is_implied: bool = True


def _has_program(user: User, name: str) -> bool:
    return shutil.which(name, path=user.environ.get("PATH", "")) is not None


# -- Open WebUI --------------------------------------------------------------------------------------------------------

_WEBUI_OTHERS = ("OPENAI_API_BASE_URLS", "OPENAI_API_KEYS", "OLLAMA_BASE_URLS")
_WEBUI_FILES = ("open-webui/.env", ".open-webui/.env", "openwebui/.env")
_WEBUI_FOLDERS = ("open-webui", "openwebui", "open_webui")
# Other projects have .env files with addresses of Ollama and OpenAI too; these variables are those of Open WebUI.
_WEBUI_MARK = re.compile(r"^\s*(?:export\s+)?WEBUI_(?:SECRET_KEY|URL|AUTH)\s*=", re.MULTILINE)
_WEBUI_NOTES = (
    "Open WebUI reads these variables at its first start only. Later, set the URLs in Admin Panel > Settings > "
    "Connections.",
    "In a container 127.0.0.1 is the container itself. Let it use the network of the host (docker run --network=host).",
)


def _webui_file(user: User) -> Path | None:
    """An environment file of Open WebUI: in a folder with its name, or in the current directory."""
    places = [*(user.home / one for one in _WEBUI_FILES), user.folder / ".env"]
    return next((one for one in places if _is_of_webui(one)), None)


def _is_of_webui(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            text = stream.read(1 << 16).decode("utf-8", "replace")
    except OSError:
        return False
    is_named = any(one in path.parent.name.lower() for one in _WEBUI_FOLDERS)
    return is_named or _WEBUI_MARK.search(text) is not None


def _webui(user: User, target: Target, path: Path | None) -> Settings:
    variables = {
        "OPENAI_API_BASE_URL": target.openai,
        "OPENAI_API_KEY": target.key,
        "OLLAMA_BASE_URL": target.url,
    }
    path = path or _webui_file(user)
    if path is None:
        lines = ", ".join(f"{name}={value}" for name, value in variables.items())
        how = f"Set these variables in its environment: {lines}."
        where = "Or name its environment file: gpumanctl connect open-webui --file open-webui=PATH"
        return Settings(notes=(how, where, *_WEBUI_NOTES))
    return Settings(path, lambda text: with_variables(text, variables, _WEBUI_OTHERS), _WEBUI_NOTES)


# -- editors and agents ------------------------------------------------------------------------------------------------

_OWN_KEY_NOTE = "A key of OpenAI that you have set stays, and is sent to the gateway."


def _continue(user: User, target: Target, path: Path | None) -> Settings:
    folder = user.home / ".continue"
    path = path or folder / "config.yaml"
    if not path.exists() and (folder / "config.json").exists():
        raise CannotEdit(
            f"Continue ignores {folder}/config.json as soon as there is a config.yaml. Convert it first: "
            "https://docs.continue.dev/reference/yaml-migration"
        )
    item = [
        f"- name: {NAME}",
        "  provider: openai",
        f'  model: "{target.model or "AUTODETECT"}"',
        f'  apiBase: "{target.openai}"',
        f'  apiKey: "{target.key}"',
        "  roles: [chat, edit, apply]",
    ]

    def edit(text: str) -> str:
        start = text if text.strip() else f"name: {NAME}\nversion: 0.0.1\nschema: v1\n"
        return with_list_item(start, "models", item)

    return Settings(path, edit)


def _cline(user: User, target: Target, path: Path | None) -> Settings:
    if path is not None:
        raise CannotEdit("Cline keeps its settings in a store of its own, which must not be changed while it runs")
    steps = f"API Provider: OpenAI Compatible; Base URL: {target.openai}; API Key: {target.key}"
    model = target.model or "a model of curl " + target.openai + "/models"
    return Settings(notes=(f"In Cline, open the settings (gear icon) and set {steps}; Model ID: {model}.",))


def _aider(user: User, target: Target, path: Path | None) -> Settings:
    settings = {"openai-api-base": target.openai}
    settings |= {"model": f"openai/{target.model}"} if target.model else {}
    notes = [] if target.model else ["Choose a model of the gateway: aider --model openai/MODEL"]
    key = {"openai-api-key": target.key}
    # Aider requires a key. One that the user has set stays, unless the gateway asks for its own.
    settings, defaults = (settings, key) if target.key == NAME else (settings | key, {})
    notes += [_OWN_KEY_NOTE] if target.key == NAME else []
    path = path or user.home / ".aider.conf.yml"
    return Settings(path, lambda text: with_top_settings(text, settings, defaults), tuple(notes))


def _codex(user: User, target: Target, path: Path | None) -> Settings:
    home = user.environ.get("CODEX_HOME", "")
    folder = Path(home) if home.startswith("/") else user.home / ".codex"
    top = {"model_provider": NAME} | ({"model": target.model} if target.model else {})
    values = {"name": "gpumand gateway", "base_url": target.openai, "wire_api": "responses"}
    if target.key != NAME:
        values["experimental_bearer_token"] = target.key
    notes: tuple[str, ...] = (
        "Codex uses the Responses API: choose a model whose server has /v1/responses (llama-server, vLLM, Ollama).",
    )
    if not target.model:
        notes = (*notes, "Choose a model of the gateway: codex --model MODEL")
    edit = _toml_edit(top, values)
    return Settings(path or folder / "config.toml", edit, notes)


def _toml_edit(top: Mapping[str, str], values: Mapping[str, str]) -> Callable[[str], str]:
    return lambda text: with_settings(text, top, ("model_providers", NAME), values)


# -- the shell ---------------------------------------------------------------------------------------------------------

_SHELL_NOTES = (
    _OWN_KEY_NOTE,
    "Open a new shell to use it. It concerns all programs that read these variables, also those with a cloud account.",
    "Start a server with 'env -u OLLAMA_HOST ollama serve', since OLLAMA_HOST is also the address at which it listens.",
)


def _shell(user: User, target: Target, path: Path | None) -> Settings:
    shell = Path(user.environ.get("SHELL", "")).name
    values = {"OPENAI_BASE_URL": target.openai, "OLLAMA_HOST": target.url, "ANTHROPIC_BASE_URL": target.url}
    path = path or _shell_file(user, shell)
    if path.suffix == ".fish":
        lines = [f"set -gx {name} {value}" for name, value in values.items()]
        lines.append(f"set -q OPENAI_API_KEY; or set -gx OPENAI_API_KEY {target.key}")
    else:
        lines = [f"export {name}={value}" for name, value in values.items()]
        lines.append('export OPENAI_API_KEY="${OPENAI_API_KEY:-' + target.key + '}"')
    return Settings(path, lambda text: with_shell_lines(text, lines), _SHELL_NOTES)


def _shell_file(user: User, shell: str) -> Path:
    if shell == "fish":
        configured = user.environ.get("XDG_CONFIG_HOME", "")
        folder = Path(configured) if configured.startswith("/") else user.home / ".config"
        return folder / "fish/conf.d/gpumand.fish"
    if shell == "zsh":
        place = user.environ.get("ZDOTDIR", "")
        return (Path(place) if place.startswith("/") else user.home) / ".zshrc"
    return user.home / (".bashrc" if shell == "bash" else ".profile")


def _extensions(user: User, name: str) -> bool:
    folders = (".vscode", ".vscode-server", ".vscode-oss", ".cursor", ".windsurf")
    return any(next((user.home / one / "extensions").glob(f"{name}-*"), None) for one in folders)


PROGRAMS = {
    one.name: one
    for one in (
        Program("open-webui", "Open WebUI", lambda user: _webui_file(user) is not None, _webui),
        Program("continue", "Continue", lambda user: (user.home / ".continue").is_dir(), _continue),
        Program(
            "cline",
            "Cline",
            lambda user: (user.home / ".cline").is_dir() or _extensions(user, "saoudrizwan.claude-dev"),
            _cline,
        ),
        Program(
            "aider",
            "Aider",
            lambda user: (user.home / ".aider.conf.yml").exists() or _has_program(user, "aider"),
            _aider,
        ),
        Program("codex", "Codex", lambda user: (user.home / ".codex").is_dir() or _has_program(user, "codex"), _codex),
        Program("shell", "the shell", lambda user: True, _shell, is_implied=False),
    )
}
"""All programs by name."""
