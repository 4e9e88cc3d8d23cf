"""What a recipe says when it cannot do what was asked."""


class RecipeError(Exception):
    """The run cannot start or go on; the message is one line for the person who asked for it."""
