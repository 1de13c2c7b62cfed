"""Raw record -> tensor, as the study's recipe says and the same at every site.

`Recipe` is the public face; the other modules hold one kind of step each.
"""

from wardround_shared.preprocessing.recipe import Fitted, Recipe

__all__ = ["Fitted", "Recipe"]
