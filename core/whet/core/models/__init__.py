"""One way to ask any model."""

from whet.core.models.model import Model

__all__ = ["Model"]
