"""Words for generated text: what fills the slots of questions and of background sentences, and what keys are made of."""

from __future__ import annotations

__all__ = ["ADJECTIVES", "BACKGROUND", "NOUNS", "OBJECTS", "PEOPLE", "PLACES", "SLOTS"]

SLOTS: dict[str, tuple[str, ...]] = {
    "person": (
        "Ada Thornbury", "Bertil Oakes", "Carlo Vess", "Dina Marrow", "Edwin Sparrowhawk", "Farida Bloom", "Gustav Lind",
        "Hana Okoro", "Ivo Castellan", "Joan Petrie", "Kofi Hallam", "Lena Wick", "Milo Ashdown", "Nadia Quill",
        "Otto Brandis", "Petra Holm", "Quentin Rudd", "Rosa Delmar", "Stellan Frye", "Tamsin Yarrow",
    ),
    "city": (
        "Aldermoor", "Brackwater", "Corvale", "Dunhaven", "Eskermouth", "Fennick", "Galdholm", "Harrowby", "Istrand",
        "Jarlsund", "Kestleton", "Lowmere", "Marrowgate", "Nethercombe", "Osterby", "Pellan", "Quarrington", "Redwick",
        "Saltholm", "Tarnfield",
    ),
    "firm": (
        "Abel & Sons", "Brightwater Mills", "Cobb Brothers", "DKA", "Eastern Glass", "Fairlie Print", "GNT",
        "Hollis Instruments", "Ironbark", "Juniper House", "KVX", "Lantern Press", "Morrow Shipping", "NRD",
        "Orchard Tea", "Pinder Works", "QLO", "Rushmore Paper", "Silver Anchor", "TLM",
    ),
    "ship": (
        "the Albatross", "the Blue Maiden", "the Corsair", "the Dauntless", "the Evening Star", "the Fair Wind",
        "the Grey Goose", "the Harvest Moon", "the Isabella", "the Juno", "the Kittiwake", "the Lucky Penny",
        "the Mistral", "the Northern Light", "the Ocean Queen", "the Patience",
    ),
    "work": (
        "A Winter Abroad", "Beyond the Dyke", "Cold Harbour Songs", "Dust and Amber", "Eleven Letters", "Far Meadows",
        "Glass Rain", "Heron Suite", "Ink and Iron", "June Nocturne", "Keeper of Bees", "Lamplight Tales",
        "Maps of Snow", "Nine Gates", "Orchard Hymn", "Paper Kings",
    ),
    "thing": (
        "anchor", "barometer", "candlestick", "drum", "compass", "flute", "globe", "hourglass", "inkwell", "kettle",
        "lantern", "loom", "mirror", "pendulum", "ladle", "sextant", "telescope", "trunk", "violin", "wheelbarrow",
    ),
    "animal": (
        "badger", "crane", "dormouse", "eel", "fox", "gull", "hare", "ibex", "jackdaw", "kestrel", "lynx", "marten",
        "newt", "otter", "pike", "raven", "seal", "toad", "vole", "wolf",
    ),
    "food": (
        "barley soup", "candied ginger", "dried plums", "elder jam", "fennel bread", "goat cheese", "honey cake",
        "lentil stew", "mustard eggs", "nut butter", "oat wafers", "pickled herring", "quince paste", "rye dumplings",
        "smoked trout", "turnip pie",
    ),
    "river": (
        "Arden", "Breck", "Calder Water", "Dove", "Ember", "Falk", "Glen Burn", "Hollow Brook", "Isk", "Jed", "Kell",
        "Lune", "Morne", "Nidd", "Orrin", "Pelt",
    ),
    "code": (
        "ABD", "BNR", "CTV", "DLO", "EQS", "FRM", "GHT", "HVX", "IKP", "JOL", "KSN", "LWD", "MRQ", "NPT", "OVB", "PXE",
        "QRA", "RGU", "STK", "TWM",
    ),
}  # fmt: skip

_BACKGROUND = """
The road to {city} was long, and nobody spoke of {person} on the way.
Somewhere above the {river} a {animal} had made its home among the stones.
It rained for three days, and the smell of {food} hung in every doorway.
In those years {firm} still kept an office near the old harbour of {city}.
An old {thing} stood on the shelf, and dust lay thick upon it.
People said that {ship} would never come back, but they went to look all the same.
Nobody in {city} had read {work}, though everybody had an opinion on it.
There was a picture of a {animal} over the fireplace, and under it a broken {thing}.
The clerk of {firm} wrote slowly and looked out at the water.
Late in autumn the {river} rose, and the mills below {city} stood still.
She thought of {ship} and of the long evenings on deck, and said nothing.
He had learned from {person} how to mend a {thing} without any tools.
At the market they sold {food} and cloth, and once a year a tame {animal}.
From the tower one could see as far as {city} when the air was clear.
The letter was short and spoke mostly of {food} and of the weather.
After the concert they argued about {work} until the lamps went out.
A boy ran along the {river} with a {thing} under his arm.
It was {person} who first called it a pity, and the others agreed.
They waited for the ferry, which was late, as it always was in {city}.
What remained of {firm} was a brass plate and a faded sign.
The captain of {ship} had a habit of humming when the wind turned.
In the evening the {animal} came down to the water and drank.
There is little to tell about the winter that followed in {city}.
A copy of {work} lay open on the bench, wet from the rain.
"""

BACKGROUND: tuple[str, ...] = tuple(line for line in _BACKGROUND.splitlines() if line)

_ADJECTIVES = """
amber azure bitter brave brittle calm cobalt copper crimson curious dapper drowsy dusty eager early fallow fierce
frosty gentle gilded glassy hasty hollow humble ivory jaunty keen lanky leaden lucid mellow misty mossy narrow nimble
olive pallid patient placid quaint quick ragged rapid rosy rustic sable scarlet silent slender solemn spare stout
sudden tawny tender timid velvet vivid wary wistful
"""
_NOUNS = """
acorn anvil arrow basket beacon bellows bishop bonnet bridle bucket cabin candle castle cedar chisel cinder cobweb
comet cradle dagger dial easel elm falcon feather fiddle garnet gate glacier hammer harbor heron island jacket juniper
kernel kiln ladder lagoon magnet maple meadow needle nettle orchard oyster paddle parlor pebble quarry quiver ribbon
saddle sparrow spindle tavern thistle tunnel valley walnut willow
"""

ADJECTIVES: tuple[str, ...] = tuple(_ADJECTIVES.split())
NOUNS: tuple[str, ...] = tuple(_NOUNS.split())
PEOPLE: tuple[str, ...] = ("Wilma", "Jonas", "Beata", "Ruben", "Selma", "Anton", "Greta", "Felix")
PLACES: tuple[str, ...] = ("kitchen", "garden", "attic", "cellar", "library", "stable", "porch", "pantry")
OBJECTS: tuple[str, ...] = ("teapot", "scarf", "umbrella", "notebook", "apple", "hammer", "basket", "ball")
