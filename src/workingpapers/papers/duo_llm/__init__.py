"""Duo-LLM: each token takes a big, a small or no feed-forward layer, by chance or by an oracle."""

from workingpapers.papers.duo_llm.graft import duo, load, save, train_small, unwrap
from workingpapers.papers.duo_llm.method import DuoFFN, Router
from workingpapers.papers.duo_llm.network import DuoConfig, DuoLM
from workingpapers.papers.duo_llm.readings import agreement, big_share, placebo
from workingpapers.papers.duo_llm.routers import (
    RouterResult,
    calibrate,
    routes_taken,
    train_router,
)
from workingpapers.papers.duo_llm.routes import (
    duo_layers,
    patterns,
    random_routes,
    route,
    set_route,
)
from workingpapers.papers.duo_llm.search import (
    Difficulty,
    OracleResult,
    oracle,
    routed_loss,
    token_difficulty,
)

__all__ = [
    "Difficulty",
    "DuoConfig",
    "DuoFFN",
    "DuoLM",
    "OracleResult",
    "Router",
    "RouterResult",
    "agreement",
    "big_share",
    "calibrate",
    "duo",
    "duo_layers",
    "load",
    "oracle",
    "patterns",
    "placebo",
    "random_routes",
    "route",
    "routed_loss",
    "routes_taken",
    "save",
    "set_route",
    "token_difficulty",
    "train_router",
    "train_small",
    "unwrap",
]
