"""From what the workspace records of a model to the model itself."""

import importlib
import inspect

from ifru_dist.errors import ConfigError
from ifru_dist.models.base import Model
from ifru_dist.models.factorisation_machine import FactorisationMachine
from ifru_dist.models.lightgcn import LightGCN
from ifru_dist.models.matrix_factorisation import BiasedMatrixFactorisation, MatrixFactorisation
from ifru_dist.models.neumf import NeuMF
from ifru_dist.models.pairwise import Pairwise
from ifru_dist.models.spec import ModelSpec

_SHIPPED: dict[str, type[Model]] = {
    "mf": MatrixFactorisation,
    "biased-mf": BiasedMatrixFactorisation,
    "lightgcn": LightGCN,
    "neumf": NeuMF,
    "fm": FactorisationMachine,
}


def build_model(spec: ModelSpec) -> Model:
    """The model that a validated spec describes.

    Raises:
        ConfigError: the spec names a class that cannot be imported, or that is no Model, or a model of two fields, or
            of a graph, is to take more.
    """
    kind = _SHIPPED.get(spec.name) or _imported(spec.name)
    if spec.fields > 2 and kind is not FactorisationMachine and spec.name in _SHIPPED:
        raise ConfigError(
            f"--model = {spec.name}: takes a user and an item, but the workspace has {spec.fields} fields: use fm, or "
            "preprocess without --fields"
        )
    model = kind(spec)
    if spec.fields > 2 and len(model.layer_weights) > 1:
        raise ConfigError(
            f"--model = {spec.name}: is a graph model, the graph is that of users and items, but the workspace has "
            f"{spec.fields} fields: preprocess without --fields"
        )
    return Pairwise(model) if spec.loss == "bpr" else model


def _imported(name: str) -> type[Model]:
    """The class that ``package.module:Class`` names."""
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"--model = {name}: cannot be imported ({error}): put the module on PYTHONPATH of every worker, with "
            "ray job submit by --working-dir or a runtime environment"
        ) from None
    except Exception as error:  # whatever the module's own code raises
        raise ConfigError(
            f"--model = {name}: importing {module_name} raised {type(error).__name__} ({error}): mend the module"
        ) from error
    kind = getattr(module, class_name, None)
    if kind is None:
        raise ConfigError(f"--model = {name}: {module_name} has no {class_name}: check the spelling of the class")
    if not (isinstance(kind, type) and issubclass(kind, Model)):
        raise ConfigError(f"--model = {name}: is no subclass of ifru_dist.models.base.Model: see docs/models.md")
    if inspect.isabstract(kind):
        raise ConfigError(f"--model = {name}: defines no score: see docs/models.md")
    return kind
