"""The model card: one page about a trained model for whoever thinks of using it.

After Mitchell et al. 2019, "Model cards for model reporting". `write_card` is the public face.
"""

from wardround_server.card.page import CARD, card_text, write_card

__all__ = ["CARD", "card_text", "write_card"]
