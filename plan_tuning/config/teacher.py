"""Groups ``teacher`` and ``distillation``: who writes and verifies plans, and how."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from plan_tuning.config.checks import require, require_choice, require_positive, require_rate
from plan_tuning.config.extensions import check_extension, extension_spec, names, record
from plan_tuning.config.microworld import SCRIPTED_VERSION, ScriptedTeacherConfig

EXECUTIONS = ("all", "retained")
PLANS = ("teacher", "dataset")
SCORE_PARSERS = ("strict", "released_code")
_RUNTIME = {"runtime": True}
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
# A key in capitals: a long run of letters and digits, without an underscore.
_KEY_LIKE = re.compile(r"(?=[A-Z]*[0-9])[A-Z0-9]{20,}")
_USER = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?[/\\]*[^/?#\\]*@")
_SCHEME = re.compile(r"(?i)https?://[^/?#\s]+")
_WRONG_SCHEME = re.compile(r"(?i)\A(?:(https?):/*|[a-z][a-z0-9+.-]*:/+|/+)")
_ENDPOINT = re.compile(
    r"(?i)/+(?:chat/completions|chat|completions|models|responses|embeddings)/*\Z"
)
_OWN_HOST = re.compile(r"(?i)\A(?:localhost|[0-9.]+|\[[0-9a-f:.]+\])(?=[:/]|\Z)|\A[^/]+:[0-9]+")
_SECRET_QUERY = re.compile(r"(?i)[?&][^=&#]*(?:key|token|secret|password)[^=&#]*=")


def check_key_variable(key: str, name: str | None) -> None:
    """Refuse what is not the NAME of an environment variable, as a key itself is not.

    Raises:
        ConfigError: it is none; the message does not repeat it.
    """
    require(
        name is None or (bool(_VARIABLE.fullmatch(name)) and not _KEY_LIKE.search(name)),
        key,
        "(hidden)",
        "the NAME of an environment variable in capitals, digits and underscores; the key itself "
        "stays in the environment",
        f"{key}=OPENAI_API_KEY",
    )


def check_address(key: str, address: str | None) -> None:
    """Refuse an address that holds a password or a key.

    Raises:
        ConfigError: it does; the message does not repeat it.
    """
    require(
        not address or not (_USER.match(address) or _SECRET_QUERY.search(address)),
        key,
        "(hidden)",
        "an address without user, password or key: it is written to logs and results; give the key "
        "by teacher.api_key_env",
        f"{key}=http://127.0.0.1:8000/v1",
    )
    require(
        not address or (bool(_SCHEME.match(address)) and not _ENDPOINT.search(address)),
        key,
        address,
        "an address that begins with http:// or https:// and ends before /chat/completions, which "
        "every request adds",
        f"{key}={_mended(address or '')}",
    )


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own, which no proxy can reach for us.

    >>> is_loopback("http://localhost:8000/v1"), is_loopback("http://127.8.0.1"), is_loopback("")
    (True, True, False)
    """
    host = (urlsplit(address).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        place = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(place, "ipv4_mapped", None)
    return place.is_loopback or place.is_unspecified or (mapped is not None and mapped.is_loopback)


def _mended(address: str) -> str:
    """Guess what was meant by an address without a scheme, or with a path too many.

    >>> _mended("127.0.0.1:8000"), _mended("https://api.example.com/v1/chat/completions")
    ('http://127.0.0.1:8000/v1', 'https://api.example.com/v1')
    """
    address = "".join(address.split()).strip("'\"")
    if not _SCHEME.match(address):
        found = _WRONG_SCHEME.match(address)
        address = address[found.end() if found else 0 :] or "127.0.0.1:8000"
        guess = "http" if _OWN_HOST.match(address) else "https"
        address = f"{(found and found[1]) or guess}://{address}"
    address = _ENDPOINT.sub("", address).rstrip("/")
    return address if "/" in address.partition("://")[2] else f"{address}/v1"


@dataclass
class TeacherConfig:
    """Who answers, at what price, and how fast it may be asked.

    Its spec is ``backend kind``, ``model`` and ``label``: neither its URL nor its key, so a new
    port buys nothing again (see :meth:`spec`).
    """

    backend: str = "scripted"
    model: str = "scripted"
    label: str = ""  # tells apart servers that serve different weights under one model name
    # openai, gemini, anthropic, openai_compatible; empty for scripted
    provider: str = field(default="", metadata=_RUNTIME)
    api_base: str | None = field(default=None, metadata=_RUNTIME)
    # NAME of the environment variable; the key itself never enters
    api_key_env: str | None = field(default=None, metadata=_RUNTIME)
    requires_key: bool = field(default=False, metadata=_RUNTIME)
    # free, auto, or {input: USD, output: USD} per million tokens
    price: Any = field(default="free", metadata=_RUNTIME)
    confirm_paid: bool = field(default=False, metadata=_RUNTIME)
    budget_usd: float | None = field(default=None, metadata=_RUNTIME)
    # Pace (runtime: none of it changes an answer)
    concurrency: int = field(default=16, metadata=_RUNTIME)
    requests_per_minute: float | None = field(default=None, metadata=_RUNTIME)
    tokens_per_minute: float | None = field(default=None, metadata=_RUNTIME)
    timeout_s: float = field(default=120.0, metadata=_RUNTIME)
    max_attempts: int = field(default=6, metadata=_RUNTIME)
    max_wait_s: float = field(default=600.0, metadata=_RUNTIME)
    # Whether the model thinks before it answers; null: as the server has it. Part of its spec.
    thinking: bool | None = None
    seeded: bool = True  # send a seed per sample (providers that reject it: false)
    # Noise of the scripted teacher (part of its spec)
    scripted: ScriptedTeacherConfig = field(default_factory=ScriptedTeacherConfig)
    extension: str | None = field(default=None, metadata={"runtime": True})  # brings the backend

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice("teacher.backend", self.backend, names("teacher"))
        check_extension("teacher", self.backend, self.extension)
        require_positive("teacher.concurrency", self.concurrency, "teacher.concurrency=16")
        require_positive("teacher.timeout_s", self.timeout_s, "teacher.timeout_s=120")
        require_positive("teacher.max_attempts", self.max_attempts, "teacher.max_attempts=6")
        require_positive("teacher.max_wait_s", self.max_wait_s, "teacher.max_wait_s=600", zero=True)
        require_positive("teacher.budget_usd", self.budget_usd, "teacher.budget_usd=5", zero=True)
        require_positive(
            "teacher.requests_per_minute",
            self.requests_per_minute,
            "teacher.requests_per_minute=60",
        )
        require_positive(
            "teacher.tokens_per_minute", self.tokens_per_minute, "teacher.tokens_per_minute=100000"
        )
        check_key_variable("teacher.api_key_env", self.api_key_env)
        check_address("teacher.api_base", self.api_base)
        is_pair = isinstance(self.price, dict) and set(self.price) == {"input", "output"}
        if is_pair:
            for side in ("input", "output"):
                value = self.price[side]
                require(
                    isinstance(value, int | float) and value >= 0,
                    f"teacher.price.{side}",
                    value,
                    "USD per million tokens, 0 or more",
                    "'teacher.price={input: 0.1, output: 0.4}'",
                )
        require(
            is_pair or self.price in ("free", "auto"),
            "teacher.price",
            self.price,
            "free, auto, or both input and output in USD per million tokens",
            "'teacher.price={input: 0.1, output: 0.4}'",
        )
        if self.backend == "http" or (
            self.backend == "litellm" and self.provider == "openai_compatible"
        ):
            require(
                bool(self.api_base),
                "teacher.api_base",
                self.api_base,
                "this teacher is a server of yours, and its address is needed",
                "teacher.api_base=http://127.0.0.1:8000/v1",
            )

    @property
    def is_asked(self) -> bool:
        """Whether anybody answers; the plans of teacher=dataset come with the problems."""
        return "plans" not in record("teacher", self.backend).needs

    def spec(self) -> dict[str, Any]:
        """What determines its answers, for fingerprints and store keys."""
        if not self.is_asked:
            return {"kind": self.backend, "model": self.backend, "label": ""}
        kind = record("teacher", self.backend).asked_as or self.backend
        spec: dict[str, Any] = {"kind": kind, "model": self.model, "label": self.label}
        if self.backend == "scripted":
            spec["scripted"] = {"version": SCRIPTED_VERSION, **vars(self.scripted)}
        if self.thinking is not None:
            spec["thinking"] = self.thinking
        return spec | extension_spec("teacher", self.backend, self, TeacherConfig)

    def thinking_fields(self) -> dict[str, Any]:
        """Name the fields of a request that carry ``thinking``; none where it is not set.

        Servers read the switch of a chat template (``enable_thinking`` of Qwen, ``thinking`` of
        DeepSeek and Granite), providers their own words for it.
        """
        if self.thinking is None:
            return {}
        if self.provider in ("", "openai_compatible"):
            kwargs = {"enable_thinking": self.thinking, "thinking": self.thinking}
            return {"chat_template_kwargs": kwargs}
        if self.thinking:
            return {"reasoning_effort": "medium"}
        if self.provider == "anthropic":
            return {"thinking": {"type": "disabled"}}
        return {"reasoning_effort": "disable" if self.provider == "gemini" else "minimal"}


@dataclass
class DistillationConfig:
    """How plans are sampled, verified and executed (experiments/METHOD.md section 2)."""

    # Whose plans: the teacher's, or the data set's own, which it then verifies and executes
    plans: str = "teacher"
    num_candidates: int = 5  # N plans per problem; paper: 5
    plan_temperature: float = 0.7  # paper: 0.7
    temperature: float = 0.0  # constraints, verifier, executor; paper: 0
    execution: str = "all"  # all (paper), or retained: only plans at or above execute_threshold
    execute_threshold: int = 80  # with execution=retained
    max_constraints_tokens: int = field(
        default=1024, metadata={"hash_name": "max_tokens_constraints"}
    )
    max_plan_tokens: int = field(default=2048, metadata={"hash_name": "max_tokens_plan"})
    max_verify_tokens: int = field(default=2048, metadata={"hash_name": "max_tokens_verify"})
    max_execute_tokens: int = field(default=4096, metadata={"hash_name": "max_tokens_execute"})
    score_parser: str = "strict"  # released_code: the paper's parser with its defects, to compare
    allow_holes: bool = False  # true: calls that fail to the end are left out of the corpus
    # Problems in flight, and how many may pass without one usable reply; 0: 2 x concurrency
    window: int = field(default=0, metadata={"runtime": True})
    max_failed_rate: float = field(default=0.5, metadata={"runtime": True})  # circuit breaker

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice("distillation.plans", self.plans, PLANS)
        require_positive(
            "distillation.num_candidates", self.num_candidates, "distillation.num_candidates=5"
        )
        for name in ("plan_temperature", "temperature"):
            require_positive(
                f"distillation.{name}", getattr(self, name), f"distillation.{name}=0.7", zero=True
            )
        require(
            self.plan_temperature > 0 or self.num_candidates == 1,
            "distillation.plan_temperature",
            self.plan_temperature,
            "above 0 when several candidates are sampled: at 0 they would all be equal",
            "distillation.plan_temperature=0.7",
        )
        for role in ("constraints", "plan", "verify", "execute"):
            name = f"max_{role}_tokens"
            require_positive(
                f"distillation.{name}", getattr(self, name), f"distillation.{name}=2048"
            )
        require_choice("distillation.execution", self.execution, EXECUTIONS)
        require(
            -100 <= self.execute_threshold <= 100,
            "distillation.execute_threshold",
            self.execute_threshold,
            "a plan score between -100 and 100",
            "distillation.execute_threshold=80",
        )
        require_choice("distillation.score_parser", self.score_parser, SCORE_PARSERS)
        require_positive("distillation.window", self.window, "distillation.window=32", zero=True)
        require_rate(
            "distillation.max_failed_rate", self.max_failed_rate, "distillation.max_failed_rate=0.5"
        )

    @property
    def has_given_plans(self) -> bool:
        """Whether the plans come with the problems."""
        return self.plans == "dataset"

    @property
    def candidates(self) -> int:
        """Plans of each problem: one, where it comes with the problem."""
        return 1 if self.has_given_plans else self.num_candidates
