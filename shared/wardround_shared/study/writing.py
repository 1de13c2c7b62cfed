"""A study as the text of a study file."""

import tomli_w

from wardround_shared.study.document import Study


def study_text(study: Study) -> str:
    """The study as it was asked for; read again, it is the same study."""
    content = study.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    return tomli_w.dumps(content)
