"""The programs of the coding family: how they are asked for, their text, and the statements that test them.

Every program is written here and runs on its own.
"""

from training.embedded.families.programs.relatives import RELATIVES
from training.embedded.families.programs.tutorial import TUTORIAL

PROGRAMS = TUTORIAL | RELATIVES
