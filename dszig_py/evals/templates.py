"""Short questions whose kind of answer a reader sees at once and a regular expression does not.

Question words, nouns and names are spread over all six kinds on purpose: "where" may ask for a person, "how many" may
stand in a question for a reason. The kinds are those of question classification (person, location, number, entity,
description, abbreviation); every line was written for this file. Words in braces are filled from ``words.SLOTS``.
"""

from __future__ import annotations

__all__ = ["KINDS", "TEMPLATES"]

KINDS: dict[str, str] = {
    "person": "a person or a group of people",
    "location": "a place",
    "number": "a count, date, amount, size or rank",
    "entity": "a thing, animal, plant, substance, work, colour, language or the like",
    "description": "a definition, reason, manner or explanation",
    "abbreviation": "an abbreviation, or what one is short for",
}

_PERSON = """
Whose signature closes the treaty of {city}?
Which sculptor carved the lions outside the town hall of {city}?
To whom did {person} leave the estate near {city}?
What was the maiden name of the woman who founded {firm}?
How is the composer of {work} called in the programme?
Where {firm} made its fortune, whose idea had it been?
Which family has run {firm} since the fire?
When {ship} sank, which officer was on the bridge?
In {work}, which of the brothers marries the miller's daughter?
What do we call the man that {person} followed to {city}?
Under which queen was the harbour of {city} dug?
How many remember it: which goalkeeper saved the final in {city}?
From which painter did {firm} buy its emblem?
Behind the pen name on the cover of {work} stands which author?
On whose advice did {person} sell the {thing}?
By which crew was {ship} brought home after the storm?
What people settled the banks of the {river} first?
Which monk copied the {city} manuscript of {work}?
Against whom did {person} play the last match in {city}?
With which cousin did {person} share the house in {city}?
Where the {river} was bridged, which engineer signed the plans?
Name the surgeon who treated {person} after the duel.
Why ask for the mayor when it was which clerk that ran {city}?
Which tribe taught the settlers of {city} to catch the {animal}?
What soprano sang the first night of {work} in {city}?
In how many accounts does it matter which heir got the {thing}?
After whom is the highest peak above the {river} named?
Which of the rivals invented the {thing} first?
When all had left {city}, which nurse stayed with the sick?
How did they call the twins who stole the {thing} from {firm}?
Which explorer first saw a {animal} on the shores of the {river}?
What apprentice finished {work} after the master's death?
For which admiral was {ship} fitted with a second mast?
Of all teachers of {person}, which one came from {city}?
Which banker paid for the voyage of {ship}?
At the trial in {city}, which lawyer spoke for {person}?
What band recorded {work} in a barn beside the {river}?
Which saint is said to have calmed the {river} with a {thing}?
Where no one else would sign, which minister signed for {city}?
Next to {person}, which actress is remembered for {work}?
In which poet's hand is the note found inside the {thing}?
Which tutor taught {person} to play the {thing}?
"""

_LOCATION = """
Which port did {ship} last sail from?
In what town does the {river} meet the sea?
Where would one have to dig for the lost {thing} of {person}?
From which valley does {food} come?
What country printed {work} for the first time?
Who wants to see a wild {animal} has to travel to which region?
On which island did {person} spend the years of exile?
How far they went is known, but at what cape did {ship} turn back?
Which province sends most of its {food} to {city}?
To what city did {firm} move its workshop after the flood?
Beside which lake was the {thing} of {person} found?
What continent is the {animal} native to?
At which crossing did the army wade through the {river}?
Under the floor of which chapel does {person} lie buried?
Which street in {city} was home to {firm}?
Through which pass did the traders bring {food} to {city}?
What harbour gave {ship} shelter in the great gale?
When {person} fled {city}, which village offered a bed?
Which desert separates {city} from the coast?
Between which two towns does the {river} form a border?
In whose absence is no matter, but in what hall was {work} first played?
What corner of the world still speaks of {person} and the {animal}?
Which hill did {person} choose for the observatory?
Out of which quarry was the stone for {city} cut?
How do sailors call the strait where {ship} ran aground?
On what square in {city} stands the statue of the {animal}?
Which mountain range feeds the {river}?
Where is the factory in which {firm} presses its {thing}?
What bay did {person} chart in the summer with {ship}?
Near which market could one buy {food} by night?
In which museum hangs the portrait of {person} with the {animal}?
Which suburb of {city} is known for its {food}?
At what monastery was {work} hidden from the soldiers?
Of the many stops of {ship}, which was the coldest harbour?
What peninsula do the storks of {city} fly to in autumn?
Which state was {person} governor of before the war?
Why not tell us in which prison {person} wrote {work}?
Up to which waterfall can boats go on the {river}?
What kingdom lay east of {city} when {person} was young?
Which district did the {animal} disappear from last?
To which station do you go for the night train to {city}?
Along what coast did {firm} lay its first cable?
"""

_NUMBER = """
What share of the people of {city} voted for {person}?
At what temperature does {food} begin to spoil?
Which year saw the launch of {ship}?
How old was {person} when {work} appeared?
What did a {thing} from {firm} cost before the war?
When was the bridge over the {river} opened?
Who can tell the height of the tower in {city}?
In which century did {person} live?
On what day does {city} celebrate the return of {ship}?
How long is the {river} from spring to mouth?
What rank did {person} reach in the chess cup of {city}?
To what age can a {animal} live in captivity?
Which percentage of its {food} does {city} import?
Where the {river} is deepest, what depth does it have?
How heavy was the {thing} that {person} lifted?
By what margin did {person} win the seat for {city}?
What is the population of {city} without its suburbs?
Within what number of days did {ship} cross the ocean?
At which speed does the {animal} run when hunted?
For what sum did {firm} sell the rights to {work}?
Which odds were given on {person} in the race at {city}?
Over what distance was the {animal} carried upstream?
Name the date on which {firm} closed its doors.
What quantity of {food} does a {animal} eat in a week?
During which month does the {river} flood the lower town?
Of what thickness are the walls of the old fort at {city}?
Which line of {work} by number mentions the {animal}?
Under what score did {city} lose the final?
Who knows the number of children that {person} raised?
What phone code do you dial for {city}?
With what crew strength did {ship} leave {city}?
In which decade did {firm} stop making the {thing}?
What size of shoe did {person} wear?
How often did {person} sail around the cape with {ship}?
What is left of the debt that {firm} owed to {city}, in crowns?
Which salary was {person} offered by {firm}?
At what hour do the bells of {city} ring for {person}?
Since when has {food} been sold at the gates of {city}?
Up to what weight may a {thing} be sent by {firm}?
What were the chances of seeing a {animal} near the {river}?
Which fraction of {work} did {person} write alone?
Between what ages does a {animal} bear young?
"""

_ENTITY = """
What instrument did {person} play in the taverns of {city}?
Which animal is on the coat of arms of {city}?
What colour was the hull of {ship} painted in its last year?
Which language was spoken at home by {person}?
Where tailors work for {firm}, what fabric do they cut most?
What disease kept {person} away from {city}?
Which plant gives {food} its bitter taste?
How does one call the tool used to open a {thing}?
What breed of dog went with {person} on board of {ship}?
Which metal does {firm} pour into the {thing}?
With what weapon was the {animal} of {city} killed?
In which game does the player with the {thing} move first?
What gem was set into the ring that {person} lost in the {river}?
Who bakes {food} in {city} uses which spice?
Which religion did {person} take up in later years?
What dance is performed when {ship} comes home to {city}?
On which kind of wood is the portrait of {person} painted?
What drink goes with {food} at a wedding in {city}?
Which novel did {person} carry up the {river}?
Out of what material was the first {thing} made?
What flower grows only on the banks of the {river}?
Which sport made {person} famous in {city}?
Under what sign of the zodiac was {person} born?
Which gas drives the engine that {firm} built for {ship}?
What does a {animal} feed on in winter?
For which crop are the fields around {city} known?
When {person} came to {city}, what vehicle carried the luggage?
Which prize was {work} awarded by the academy?
What bird warns the {animal} of danger?
Against which illness did {firm} sell its drops?
What card beats the {animal} in the old game of {city}?
Which part of the {thing} breaks first?
From what fruit is the liqueur of {city} made?
Name the vegetable without which {food} is no {food}.
Which letter of the alphabet is missing on the sign of {firm}?
What film did {person} see again and again in {city}?
How many brands there are, but which soap did {person} swear by?
Which currency was {food} paid with when {person} ruled?
What insect ruined the library that held {work}?
Which musical key is {work} written in?
Why {person} kept it is unclear, but what pet lived in the cabin of {ship}?
What product made {firm} known beyond {city}?
"""

_DESCRIPTION = """
What made {person} turn back before reaching {city}?
How does a {animal} find its way home?
What does it mean when sailors call {ship} a widow?
Which reasons did {firm} give for leaving {city}?
Why is {food} never served on a Friday in {city}?
In what way did {person} change the making of a {thing}?
What is the difference between a {thing} and its copy by {firm}?
How was {food} kept fresh on {ship}?
What happened to {person} after the night in {city}?
Who asks what a {thing} is good for gets which explanation?
Where people say that {work} is cursed, what do they mean by it?
What is a {thing}?
What led to the quarrel between {person} and {firm}?
How can one tell a young {animal} from an old one?
Which purpose did the holes in the {thing} serve?
What is the story behind the name of the {river}?
When a {animal} howls at dusk, what does it want to say?
By what method is {food} smoked along the {river}?
For what cause did {person} burn the letters about {work}?
What is known about the childhood of {person}?
How do you prepare {food} the way they do in {city}?
What effect has the moon on the {animal}?
Describe the custom of throwing a {thing} into the {river}.
In which manner did {ship} escape from {city}?
What are the symptoms of the fever that {person} caught?
How come {city} has two mayors?
What was the point of the number on the {thing} of {person}?
Which meaning does the year of the {animal} have in {city}?
What keeps the bridge over the {river} from falling?
To what end did {firm} collect pictures of every {animal}?
What would follow if the {river} ran dry?
How did the people of {city} come to trust {person}?
What role does the {animal} play in {work}?
Tell us how a {thing} from {firm} works.
Under what circumstances may a captain abandon {ship}?
What is so special about the {food} of {city}?
Which view of war does {work} express?
What did {person} do for a living before {firm} came?
How is it that nobody in {city} remembers {ship}?
With what excuse did {person} stay away from {work}?
What is the origin of the saying about the {animal} and the {thing}?
Where does the difference between {food} and porridge lie?
"""

_ABBREVIATION = """
What do the letters {code} on the hull of {ship} stand for?
How is the title of {work} shortened in the catalogue?
Which letters does {person} put after the surname since the doctorate?
What is {code} short for on a {thing} by {firm}?
When a label on {food} says {code}, what words are meant?
What would {firm} be called in full, without initials?
Who reads {code} on a map of {city} should read it as which words?
Under which initials does {person} publish?
What is the short form that railwaymen use for {city}?
How do you spell out {code} in a letter from {person}?
Which three letters mark the airport of {city}?
What does {code} mean in the small print of {firm}?
In the log of {ship}, which words hide behind {code}?
What acronym do the friends of the {animal} use for their club?
By which initials do doctors call the fever of {city}?
Where old charts of the {river} say {code}, what is the full expression?
What is the usual short way to write the measure for {food}?
Which two letters stand for {city} on number plates?
Into what letters did {firm} boil down its long name?
The stamp {code} inside a {thing}: what do its letters say in full?
How is the society for the {animal} known by its initials?
What is the full name of the agency that signs as {code}?
For what phrase does {code} stand in the diary of {person}?
Which contraction do printers use for {work}?
What do the first letters of the motto of {city} form when put together?
In the trade of {firm}, what is meant when a buyer writes {code}?
How would a telegraph clerk in {city} cut down the word for {food}?
What is {code} the acronym of in the charter of {city}?
On whose desk is no matter: what is the expansion of {code}?
Which symbol of two letters do chemists of {firm} write for the metal?
What did {person} mean by signing with {code} only?
The code letters for {ship} in radio traffic are which?
As what is the Union of the {river} Pilots usually abbreviated?
Of which Latin words is {code} on the {thing} an abbreviation?
What shorthand did {person} use for the name of {city}?
Which words did the founders of {firm} squeeze into {code}?
How many letters it has is plain, but what is {code} an initialism of?
At the exchange, under which ticker is {firm} listed?
What letters do chess players write for the piece called {animal}?
Why {code} is there nobody says, but what does it abbreviate?
What suffix of two letters does {firm} carry to show it is a company?
Whenever {person} wrote {code}, which phrase was to be read?
"""


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line for line in text.splitlines() if line)


TEMPLATES: dict[str, tuple[str, ...]] = {
    "person": _lines(_PERSON),
    "location": _lines(_LOCATION),
    "number": _lines(_NUMBER),
    "entity": _lines(_ENTITY),
    "description": _lines(_DESCRIPTION),
    "abbreviation": _lines(_ABBREVIATION),
}
