"""Sentiment of a language model's texts."""

from types import MappingProxyType

import prefopt
from prefopt.bench.language_model import LanguageModelTask

# An opening stops where an opinion is due, so that continuations differ in sentiment.
_REVIEWS = (
    (
        *("The film we saw last night", "Her second novel", "The restaurant by the station", "Our room in that hotel"),
        *("The band's last concert", "The museum in the old town", "The lead actor", "The soup of the day"),
        *("The school play", "The little café on the corner", "His latest album", "The guided tour"),
        *("The new season of the show", "The service at the bar", "The camera I bought", "The hike to the lake"),
        *("The wedding cake", "This collection of poems", "The view from the tower", "The game my son got"),
        *("The night train", "The final episode", "The exhibition downtown", "The jacket I ordered"),
    ),
    (" was so", " was absolutely", " left us feeling", ". I thought it was"),
)
_STORIES = (
    (
        *("Once upon a time there was a little girl named Lily.", "Tim and his dog went to the park."),
        *("One day, a small bird sat in a tree.", "Sara had a red ball.", "Ben and his mom baked a cake."),
        *("There was a big bear in the forest.", "Anna found an old box.", "The boy saw a cat in the garden."),
        *("Tom lost his favorite toy.", "Mia and Max played in the sand.", "A frog lived near the pond."),
        *("The little boat was on the water.", "Lucy went to school.", "Jack climbed a tall tree."),
        *("Grandma had a surprise for Amy.", "It was raining outside.", "A boy named Leo had a kite."),
        *("The puppy was alone in the house.", "Emma met a new friend.", "Sam wanted to help his dad."),
        *("Two friends saw a rabbit.", "The king had a shiny crown.", "Molly heard a loud noise."),
        "Daddy came home with a bag.",
    ),
    (" Then", " It was", " Suddenly,", " The day was", " Everyone felt"),
)


class Sentiment(LanguageModelTask):
    """A language model learns to write kindly: the paper's IMDb experiment, at any size.

    The sets of prompts are `reviews`, openings of reviews, and `stories`, openings of tales for small children.

    Source:
        Rafailov et al.: Direct Preference Optimization, 2023, arXiv 2305.18290, section 6.1 and appendix C.1.
    """

    name = "sentiment"
    knobs = MappingProxyType(
        {
            **LanguageModelTask.knobs,
            "prompts": prefopt.Knob("reviews", "reviews, stories, or rows with a column prompt or text"),
        }
    )
    prompt_sets = MappingProxyType(
        {
            name: tuple(subject + ending for subject in subjects for ending in endings)
            for name, (subjects, endings) in {"reviews": _REVIEWS, "stories": _STORIES}.items()
        }
    )


@prefopt.hookimpl
def prefopt_register_tasks() -> list[type[prefopt.Task]]:
    """Registers `sentiment`."""
    return [Sentiment]
