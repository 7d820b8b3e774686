"""What the program says: data where it is found out, words in one of three languages where it is read.

A *message* is the key of a text and the values in it. It is made where something is known, travels as data, and becomes
a sentence at the edge: ``str`` gives English for the terminal and the log, ``Texts(language).said`` any language for
the page. Knows no other room.
"""

from .texts import LANGUAGES, AnyMessage, Message, Texts, joined, plain

__all__ = ["LANGUAGES", "AnyMessage", "Message", "Texts", "joined", "plain"]
