"""A site's own part of the model: it is trained with the rest, and never leaves.

Layers of its own (`personal.layers`; FedBN, Li et al. 2021) take the place of the received ones
before the model is measured or trained, and their change is taken out of the update before that is
formed: the server gets zeros there, so that its model keeps the values that it began with. Under
DP they are clipped and get noise with all others.

A whole model of its own (`personal.ditto`; Ditto, Li et al. 2021, algorithm 1) is trained beside
the shared one in each round, on steps of its own that are paid for with the round's. No update
knows of it. P = model parameters, O = the site's own.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wardround_client.personal_files import PersonalFiles
from wardround_client.training import LocalTraining, local_seed
from wardround_shared.errors import PrivacyError, RunError
from wardround_shared.messages import Fitted, Header, Shapes
from wardround_shared.models import flatten, unflatten_
from wardround_shared.study import Study, Training


def normalisation_places(module: nn.Module) -> NDArray[np.bool_]:
    """Which parameters are scale or shift of a group norm, bool [P] as `flatten` orders them."""
    own = {
        id(parameter)
        for layer in module.modules()
        if isinstance(layer, nn.GroupNorm)
        for parameter in layer.parameters(recurse=False)
    }
    return np.concatenate([np.full(p.numel(), id(p) in own) for p in module.parameters()])


class PersonalPart:
    """What one site has for itself in one run; nothing, if the study says so."""

    def __init__(self, study: Study, files: PersonalFiles | None) -> None:
        """The part that `[personal]` of the study asks for.

        Args:
            study: the study.
            files: where it is kept; None only if there is none.

        Raises:
            ValueError: there is one and no place for it.
        """
        if study.personal.any and files is None:
            raise ValueError("no place for a model of the site's own, which the study asks for")
        self._study = study
        self._files = files

    @property
    def any(self) -> bool:
        """Whether this site ends with a model of its own."""
        return self._study.personal.any

    @property
    def has_layers(self) -> bool:
        """Whether layers of this site's own stay here from round to round."""
        return self._study.personal.layers != "none"

    @property
    def fine_tuning(self) -> Training | None:
        """What the study asks of the training after the last round; None: there is none.

        As in a round, but for its length and a constant learning rate, and without any pull.
        """
        personal, training = self._study.personal, self._study.training
        if not personal.fine_tune_epochs:
            return None
        return training.model_copy(
            update={
                "local_epochs": personal.fine_tune_epochs,
                "local_steps": None,
                "learning_rate": personal.fine_tune_learning_rate or training.learning_rate,
                "learning_rate_schedule": "constant",
                "proximal": 0.0,
            }
        )

    @property
    def has_model(self) -> bool:
        """Whether each round trains a whole model of this site's own beside the shared one."""
        return self._study.personal.ditto is not None

    def beside(
        self, shared: LocalTraining, *, received: Tensor, site: str, steps: int | None
    ) -> LocalTraining:
        """How the site's own model is trained in a round, from how the shared one was.

        As that, but for the pull, which is to the received model, and for the batches; the source
        of noise goes on where it is, so that noise injected for a test does not come twice. It is
        no part of the shared model, and so nothing corrects its drift.

        Args:
            shared: the training of the shared model.
            received: float32 [P], that model as it was received.
            site: name of the site.
            steps: that are paid for; None: the study is not private.
        """
        assert self._study.personal.ditto is not None
        pull = {"proximal": self._study.personal.ditto}
        protection = shared.protection
        if protection is not None and steps is not None:
            protection = replace(protection, steps=steps)
        return replace(
            shared,
            training=shared.training.model_copy(update=pull),
            seed=local_seed(shared.seed, f"ditto/{site}", shared.round),
            protection=protection,
            centre=received,
            correction=None,
        )

    def begin(self, module: nn.Module, header: Header) -> Tensor | None:
        """Make ready for a round, before it is paid for.

        Args:
            module: holds the received model; gets the site's own layers, if it has some.
            header: of the request.

        Returns:
            The site's own model [P], if it has one beside the shared one.

        Raises:
            PrivacyError: see `put_in_`.
        """
        if not self.has_model:
            self.put_in_(module, header)
            return None
        received = flatten(module)
        self.put_in_(module, header)
        own = flatten(module)
        unflatten_(module, received)
        return own

    def put_in_(self, module: nn.Module, header: Header) -> None:
        """Put what is the site's own, as the last round before this one left it, into a module.

        In its first round a site goes on from what it has received.

        Raises:
            PrivacyError: what is kept is damaged, or of another run.
        """
        if not self._keeps_rounds:
            return
        kept = self._kept(header).before(header.round)
        if kept is None:
            return
        vector, places = flatten(module), torch.from_numpy(self._places(module))
        if len(kept) != int(places.sum()):
            raise PrivacyError(
                "What this site keeps of its own part of the model does not fit the study's model; "
                "start a new run."
            )
        vector[places.to(vector.device)] = torch.from_numpy(kept).to(vector.device)
        unflatten_(module, vector)

    def shared(self, module: nn.Module, delta: NDArray[np.float32]) -> NDArray[np.float32]:
        """What of a change (float32 [P]) may leave: zeros at the site's own layers."""
        if not self.has_layers:
            return delta
        return np.where(normalisation_places(module), np.float32(0), delta)

    def keep(self, module: nn.Module, header: Header) -> None:
        """Keep what is the site's own as this round has left it in `module`.

        Raises:
            RunError: it is not finite.
            PrivacyError: it cannot be kept.
        """
        if not self._keeps_rounds:
            return
        own = flatten(module).cpu().numpy()[self._places(module)]
        if not np.isfinite(own).all():
            raise RunError(
                "The training diverged at this site, in its own part of the model; lower "
                "training.learning-rate."
            )
        self._kept(header).keep(header.round, own)

    def keep_model(
        self, module: nn.Module, header: Header, *, fitted: Fitted, shapes: Shapes
    ) -> None:
        """Keep the whole model as this hospital uses it, in the form of a run's model file.

        Raises:
            RunError: a parameter is not finite.
            PrivacyError: it cannot be kept.
        """
        if not torch.isfinite(flatten(module)).all():
            raise RunError(
                "The training of this site's own model diverged; lower training.learning-rate."
            )
        arrays = {name: p.detach().cpu().numpy() for name, p in module.named_parameters()}
        self._kept(header).keep_model(self._study, arrays, fitted=fitted, shapes=shapes)

    @property
    def _keeps_rounds(self) -> bool:
        return self.has_layers or self.has_model

    def _places(self, module: nn.Module) -> NDArray[np.bool_]:
        """Which parameters of `module` are the site's own, bool [P]."""
        places = normalisation_places(module)
        return np.ones_like(places) if self.has_model else places

    def _kept(self, header: Header) -> PersonalFiles:
        assert self._files is not None
        if (header.run, header.study_id) != (self._files.run, self._files.study_id):
            raise PrivacyError(
                "A request is of another run than this site's own model belongs to; refused."
            )
        return self._files
