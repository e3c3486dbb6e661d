"""Sixty-four pairs of sentences that belong together, from works that are in the public domain.

The King James Bible, Shakespeare, Swift, Blake, Austen, Shelley, Poe, Dickens, the Brontës, Melville,
Thoreau, Darwin, Whitman, Lincoln, Carroll, Twain, Stevenson, Doyle, Wells, Stoker, London, Barrie, Burnett
and Grahame, split where they pause, some of them shortened.
"""

PAIRS = [
    tuple(line.split(" | "))
    for line in """\
In the beginning God created the heaven and the earth. | And the earth was without form, and void.
The Lord is my shepherd; I shall not want. | He maketh me to lie down in green pastures.
To every thing there is a season. | A time to be born, and a time to die.
Vanity of vanities, saith the Preacher. | What profit hath a man of all his labour?
Shall I compare thee to a summer's day? | Thou art more lovely and more temperate.
To be, or not to be, that is the question. | To die, to sleep, perchance to dream.
All the world's a stage. | And all the men and women merely players.
Tomorrow, and tomorrow, and tomorrow. | Life's but a walking shadow, a poor player.
Friends, Romans, countrymen, lend me your ears. | I come to bury Caesar, not to praise him.
The quality of mercy is not strained. | It droppeth as the gentle rain from heaven.
My mistress' eyes are nothing like the sun. | Coral is far more red than her lips' red.
Now is the winter of our discontent. | Made glorious summer by this sun of York.
My father had a small estate in Nottinghamshire. | I was the third of five sons.
Tyger Tyger, burning bright. | What immortal hand or eye could frame thy symmetry?
Little Lamb, who made thee? | Dost thou know who made thee?
To see a world in a grain of sand. | And a heaven in a wild flower.
It is a truth universally acknowledged. | A single man with a fortune must want a wife.
My dear Mr. Bennet, said his lady to him one day. | Have you heard that Netherfield Park is let at last?
Emma Woodhouse, handsome, clever, and rich. | She had lived with very little to distress or vex her.
No one who had ever seen Catherine Morland in her infancy. | Would have supposed her born to be a heroine.
It was on a dreary night of November. | I beheld the accomplishment of my toils.
You will rejoice to hear that no disaster has accompanied us. | I arrived here yesterday.
Once upon a midnight dreary, while I pondered, weak and weary. | Suddenly there came a tapping at my door.
The thousand injuries of Fortunato I had borne. | When he ventured upon insult I vowed revenge.
It was the best of times, it was the worst of times. | It was the age of wisdom and of foolishness.
Marley was dead, to begin with. | There is no doubt whatever about that.
My father's family name being Pirrip. | So I called myself Pip.
Now, what I want is, Facts. | Teach these boys and girls nothing but Facts.
London. Implacable November weather. | Fog everywhere, fog up the river, fog down the river.
There was no possibility of taking a walk that day. | We had been wandering in the leafless shrubbery.
Reader, I married him. | A quiet wedding we had, he and I.
I have just returned from a visit to my landlord. | The solitary neighbour that I shall be troubled with.
Call me Ishmael. | I thought I would sail about and see the watery part of the world.
From hell's heart I stab at thee. | For hate's sake I spit my last breath at thee.
I went to the woods because I wished to live deliberately. | To front only the essential facts of life.
The mass of men lead lives of quiet desperation. | What is called resignation is confirmed desperation.
There is grandeur in this view of life. | From so simple a beginning endless forms have evolved.
I celebrate myself, and sing myself. | For every atom belonging to me as good belongs to you.
O Captain! my Captain! our fearful trip is done. | The ship has weathered every rack.
Four score and seven years ago. | Our fathers brought forth a new nation.
With malice toward none, with charity for all. | Let us strive to finish the work we are in.
Alice was beginning to get very tired. | She was sitting by her sister on the bank.
Why is a raven like a writing desk? | I give it up, what is the answer?
'Twas brillig, and the slithy toves. | Did gyre and gimble in the wabe.
The time has come, the Walrus said. | To talk of many things, of shoes and ships.
Tom appeared with a bucket of whitewash. | He surveyed the fence, and all gladness left him.
You don't know about me without you have read a book. | That book was made by Mr. Mark Twain.
Fifteen men on the dead man's chest. | Yo ho ho, and a bottle of rum!
I remember him as if it were yesterday. | He came plodding to the inn door, with his sea chest.
Under the wide and starry sky. | Dig the grave and let me lie.
To Sherlock Holmes she is always the woman. | In his eyes she eclipses the whole of her sex.
You see, but you do not observe. | The distinction is clear, Watson.
When you have eliminated the impossible. | Whatever remains must be the truth.
Mr. Holmes, they were the footprints of a gigantic hound! | He looked strangely at us for an instant.
No one would have believed it. | Intelligences greater than man's regarded this earth.
The Time Traveller was expounding a matter to us. | His grey eyes shone and twinkled.
The stranger came early in February, one wintry day. | He was wrapped up from head to foot.
Listen to them, the children of the night. | What music they make!
Buck did not read the newspapers. | He would have known that trouble was brewing.
Dark spruce forest frowned on either side of the frozen waterway. | A vast silence reigned over the land.
All children, except one, grow up. | They soon know that they will grow up.
Second to the right, and straight on till morning. | That, Peter told Wendy, was the way to the Neverland.
When Mary Lennox was sent to live with her uncle. | Everybody said she was the most disagreeable child.
The Mole had been working very hard all the morning. | He was spring cleaning his little home.""".splitlines()
]
