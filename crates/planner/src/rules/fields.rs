//! Where products are at home, and what is done with them there.
//!
//! A flat table. Every `{}` stands for the product, see [`Product::say`](super::product::Product::say);
//! nothing here tells clothes or looks of people.

/// One kind of products.
#[derive(Debug)]
pub(super) struct Field {
    /// Words of a brief that point to it.
    pub words: &'static [&'static str],
    /// Who uses such a thing.
    pub people: [&'static str; 3],
    /// Where.
    pub places: [FilmSetting; 3],
    /// How it comes into the picture.
    pub arrivals: [&'static str; 3],
    /// What is done with it.
    pub uses: [&'static str; 6],
}

/// A place of a film.
#[derive(Debug)]
pub(super) struct FilmSetting {
    /// In full and with its preposition, when it is first seen.
    pub full: &'static str,
    /// With its preposition, when it is known.
    pub known: &'static str,
    /// What the product stands or lies on, with its preposition.
    pub ground: &'static str,
    /// Light at this place.
    pub lights: [&'static str; 3],
}

/// The last one is for products that fit nowhere else.
pub(super) const FIELDS: [Field; 9] = [
    Field {
        words: &[
            "kettle", "pan", "pot", "knife", "mug", "cup", "cooker", "oven", "toaster", "blender",
            "bottle", "grill", "cook", "cooking", "kitchen", "bake", "baking", "coffee", "tea",
            "espresso", "dish", "plate", "bowl",
        ],
        people: ["a cook", "an early riser", "a host"],
        places: [
            FilmSetting {
                full: "in a small kitchen with a worn oak counter, copper hooks and one tall window",
                known: "in the small kitchen",
                ground: "on the oak counter",
                lights: [
                    "blue light before sunrise through the window on the left",
                    "the first warm sunlight lying flat across the counter",
                    "a single warm lamp above, the room behind in shade",
                ],
            },
            FilmSetting {
                full: "at a long table in a courtyard under a fig tree, with linen and clay bowls",
                known: "at the courtyard table",
                ground: "among the clay bowls",
                lights: [
                    "dappled noon light through the leaves",
                    "low golden sun from behind, dust in the air",
                    "strings of small bulbs against a deep blue evening sky",
                ],
            },
            FilmSetting {
                full: "in a bright loft kitchen with a white stone island and tall windows over roofs",
                known: "in the loft kitchen",
                ground: "on the white stone",
                lights: [
                    "soft even light of an overcast morning",
                    "sharp afternoon sun with long window shadows",
                    "cool dusk outside and warm light on the island",
                ],
            },
        ],
        arrivals: [
            "sets {} down with both hands",
            "slides {} into the light",
            "lifts {} off a folded linen cloth",
        ],
        uses: [
            "tilts {} and lets steam drift past the lens",
            "turns {} slowly by {its} edge until the light catches {them}",
            "reaches for {} without looking, as for an old friend",
            "moves {} to the middle of the table",
            "wipes a drop from {} with one finger",
            "hands {} across the table to waiting hands",
        ],
    },
    Field {
        words: &[
            "tent",
            "backpack",
            "hiking",
            "hike",
            "camping",
            "trail",
            "outdoor",
            "climb",
            "climbing",
            "boot",
            "boots",
            "jacket",
            "raincoat",
            "coat",
            "parka",
            "torch",
            "headlamp",
            "canteen",
            "rope",
            "ski",
            "snowboard",
            "kayak",
        ],
        people: ["a hiker", "a mountain guide", "a traveller"],
        places: [
            FilmSetting {
                full: "on a stony ridge above a sea of clouds, with dry grass bent by wind",
                known: "on the ridge",
                ground: "on a flat grey rock",
                lights: [
                    "cold blue light minutes before sunrise",
                    "hard clear sun from the right, thin air",
                    "a red evening sky behind the peaks",
                ],
            },
            FilmSetting {
                full: "in a pine forest after rain, with a narrow path and ferns that drip",
                known: "in the pine forest",
                ground: "on wet moss",
                lights: [
                    "beams of light through mist between the trunks",
                    "soft green shade, the path shining",
                    "late gold light low among the trunks",
                ],
            },
            FilmSetting {
                full: "on a lake shore with round pebbles, a small fire and still dark water",
                known: "at the lake shore",
                ground: "on the pebbles by the fire",
                lights: [
                    "grey light of dawn over the water",
                    "firelight from below and a violet sky",
                    "bright stars above and embers below",
                ],
            },
        ],
        arrivals: [
            "takes {} out of the frost and shakes {them} once",
            "kneels and unpacks {} on the ground",
            "picks {} up and stops at the edge",
        ],
        uses: [
            "pulls {} tight with one short movement while wind tears at the grass",
            "holds {} into the rain, and drops run off {them}",
            "crosses the frame with {} from left to right",
            "rests beside {} and breathes out a small cloud",
            "brushes ice from {} with the back of a hand",
            "raises {} against the sky",
        ],
    },
    Field {
        words: &[
            "watch",
            "ring",
            "necklace",
            "bracelet",
            "earring",
            "jewellery",
            "jewelry",
            "chronograph",
            "pendant",
            "wallet",
            "handbag",
            "bag",
            "purse",
            "glasses",
            "sunglasses",
            "belt",
            "pen",
        ],
        people: ["a violinist", "a night porter", "a traveller"],
        places: [
            FilmSetting {
                full: "at a dressing table of dark wood with a round mirror and a tray of black slate",
                known: "at the dressing table",
                ground: "on the slate tray",
                lights: [
                    "one narrow beam from above, all else in shadow",
                    "soft window light from the left, the mirror glowing",
                    "warm candlelight that trembles on the wood",
                ],
            },
            FilmSetting {
                full: "on a hotel staircase with a brass rail and tall windows over a wet street",
                known: "on the staircase",
                ground: "on the brass rail",
                lights: [
                    "cool street light through rain on the glass",
                    "amber light of a chandelier from above",
                    "pale morning light that falls down the stairwell",
                ],
            },
            FilmSetting {
                full: "on a quay at the edge of a harbour, with wet stone and slow boats",
                known: "on the quay",
                ground: "on the wet stone",
                lights: [
                    "silver light of an overcast noon",
                    "a low sun that draws a bright line on the water",
                    "blue hour, with lamps coming on along the quay",
                ],
            },
        ],
        arrivals: [
            "takes {} from the tray and turns {them} to the light",
            "opens one hand, and {} lie{s} in it",
            "lets {} slide into the beam of light",
        ],
        uses: [
            "turns {} until a glint runs along {its} edge",
            "closes {} with a small precise movement",
            "rests a hand on the rail, with {} in sharp focus",
            "glances at {} and slows down",
            "lifts {} against the bright background",
            "passes a thumb over {}, and the surface answers with a gleam",
        ],
    },
    Field {
        words: &[
            "phone",
            "laptop",
            "keyboard",
            "headphone",
            "headphones",
            "earbuds",
            "speaker",
            "camera",
            "tablet",
            "monitor",
            "charger",
            "mouse",
            "drone",
            "console",
            "printer",
            "router",
            "screen",
            "smart",
            "wireless",
        ],
        people: ["a designer", "a night-shift editor", "a student"],
        places: [
            FilmSetting {
                full: "at a tidy studio desk by a window, with paper sketches and a green plant",
                known: "at the studio desk",
                ground: "on the desk between the sketches",
                lights: [
                    "soft grey daylight from the window",
                    "a warm desk lamp from the right, blue evening outside",
                    "late sun in stripes through the blinds",
                ],
            },
            FilmSetting {
                full: "in a train compartment with a small folding table, fields rushing past outside",
                known: "in the train compartment",
                ground: "on the folding table",
                lights: [
                    "flickering sun between passing trees",
                    "cool light of rain on the window",
                    "gold evening light sweeping through the carriage",
                ],
            },
            FilmSetting {
                full: "on a flat roof over a city with a low wall, pigeons and distant towers",
                known: "on the roof",
                ground: "on the low wall",
                lights: [
                    "pink light of dawn on the towers",
                    "bright sun and a clear shadow",
                    "city lights out of focus in a blue dusk",
                ],
            },
        ],
        arrivals: [
            "clears the paper aside and draws {} nearer",
            "draws {} from a plain sleeve",
            "switches {} on, and a small light wakes",
        ],
        uses: [
            "leans over {} and begins",
            "turns {} a little, and the light slides across {its} face",
            "taps {} once and looks up",
            "carries {} across the frame in one hand",
            "shares {} with somebody who bends closer",
            "puts {} down and leans back, satisfied",
        ],
    },
    Field {
        words: &[
            "cream",
            "serum",
            "soap",
            "perfume",
            "fragrance",
            "shampoo",
            "lotion",
            "lipstick",
            "balm",
            "skincare",
            "skin",
            "toothbrush",
            "razor",
            "oil",
            "mask",
            "cosmetic",
            "scent",
        ],
        people: ["a dancer", "a swimmer", "a gardener"],
        places: [
            FilmSetting {
                full: "in a bathroom of pale plaster with a stone basin and a small round window",
                known: "in the pale bathroom",
                ground: "on the rim of the stone basin",
                lights: [
                    "soft morning light through steam",
                    "a bright round patch of sun on the wall",
                    "warm candlelight and long shadows",
                ],
            },
            FilmSetting {
                full: "in a glasshouse full of white flowers, with wet leaves and a tiled path",
                known: "in the glasshouse",
                ground: "among the wet leaves",
                lights: [
                    "milky light through misted panes",
                    "green light filtered by leaves",
                    "sun after rain, every drop bright",
                ],
            },
            FilmSetting {
                full: "on a wooden jetty over clear shallow water, with reeds moving in the wind",
                known: "on the jetty",
                ground: "on the warm planks",
                lights: [
                    "silver light of early morning on the water",
                    "strong noon sun with moving reflections",
                    "rose evening light from across the lake",
                ],
            },
        ],
        arrivals: [
            "takes {} from the shelf and opens {them}",
            "dips a hand into water and reaches for {}",
            "sets {} down, and a ring of drops forms around {them}",
        ],
        uses: [
            "lets one drop of {} fall onto the back of a hand",
            "closes both eyes and breathes in, {} close by",
            "turns {} between two fingers",
            "passes {} through a beam of light",
            "draws a slow line over the skin of an arm, {} beside it",
            "puts {} back exactly where {it} stood",
        ],
    },
    Field {
        words: &[
            "lamp",
            "chair",
            "sofa",
            "table",
            "rug",
            "shelf",
            "bed",
            "pillow",
            "blanket",
            "curtain",
            "vase",
            "clock",
            "mattress",
            "desk",
            "mirror",
            "candle",
            "vacuum",
            "heater",
            "fan",
            "furniture",
        ],
        people: ["a reader", "a new tenant", "a carpenter"],
        places: [
            FilmSetting {
                full: "in an almost empty room with bare boards, white walls and two tall windows",
                known: "in the white room",
                ground: "on the bare boards",
                lights: [
                    "cold even light of a winter morning",
                    "long warm rectangles of sun on the floor",
                    "dusk outside, one pool of warm light inside",
                ],
            },
            FilmSetting {
                full: "in a reading corner under a sloping roof, with a skylight and stacks of books",
                known: "under the sloping roof",
                ground: "beside the books",
                lights: [
                    "soft rain light from the skylight",
                    "a column of afternoon sun with dust in it",
                    "deep evening, stars in the skylight",
                ],
            },
            FilmSetting {
                full: "on a veranda with a worn bench, open to a garden after rain",
                known: "on the veranda",
                ground: "by the worn bench",
                lights: [
                    "fresh green light from the garden",
                    "low sun under the edge of the roof",
                    "blue dusk, moths around the light",
                ],
            },
        ],
        arrivals: [
            "carries {} across the room and sets {them} down in the light",
            "pulls the last of a sheet away from {}",
            "pushes {} a hand's width to the left and steps back",
        ],
        uses: [
            "runs a palm along {} as if to know {them} by touch",
            "sits down by {} and lets the shoulders sink",
            "walks past {} and touches {them} in passing",
            "arranges flowers near {} and looks again",
            "falls asleep beside {} with an open book",
            "opens the window, and the draught stirs everything but {}",
        ],
    },
    Field {
        words: &[
            "bike",
            "bicycle",
            "running",
            "run",
            "shoe",
            "shoes",
            "sneaker",
            "sneakers",
            "ball",
            "racket",
            "yoga",
            "mat",
            "dumbbell",
            "fitness",
            "helmet",
            "skateboard",
            "surfboard",
            "sport",
            "swim",
            "training",
        ],
        people: ["a runner", "a coach", "a street athlete"],
        places: [
            FilmSetting {
                full: "on an empty stadium track with wet red lanes and rows of grey seats",
                known: "on the track",
                ground: "on the red lane",
                lights: [
                    "flat grey light before a storm",
                    "floodlights through thin rain",
                    "first sun over the edge of the stands",
                ],
            },
            FilmSetting {
                full: "in a steep street between painted houses, with steps and a handrail",
                known: "in the steep street",
                ground: "on the lowest step",
                lights: [
                    "sharp morning sun and blue shadow",
                    "warm light bounced from the painted walls",
                    "street lamps coming on at dusk",
                ],
            },
            FilmSetting {
                full: "on a beach at low tide, hard wet sand and a far line of surf",
                known: "on the beach",
                ground: "on the wet sand",
                lights: [
                    "pale light of dawn in the wet sand",
                    "white noon sun with spray in the air",
                    "backlight of a low orange sun",
                ],
            },
        ],
        arrivals: [
            "drops to one knee and readies {}",
            "picks {} up in passing",
            "lifts {} out of the rain",
        ],
        uses: [
            "starts with {}, and water sprays up",
            "takes a sharp turn with {} close to the lens",
            "stops, breathes hard and looks down at {}",
            "passes the camera at full speed with {}",
            "shakes drops from {}",
            "raises {} over the head with both hands",
        ],
    },
    Field {
        words: &[
            "toy", "puzzle", "game", "doll", "robot", "blocks", "kite", "plush", "teddy",
            "playset", "craft", "crayon", "child", "children", "kids", "puppet", "train",
        ],
        people: ["a child", "a grandfather", "a grandmother"],
        places: [
            FilmSetting {
                full: "on a living room floor with a round carpet, cushions and a low shelf",
                known: "on the living room floor",
                ground: "in the middle of the carpet",
                lights: [
                    "bright soft daylight from a wide window",
                    "warm lamp light on a rainy afternoon",
                    "a patch of sun that moves across the carpet",
                ],
            },
            FilmSetting {
                full: "in a garden with tall grass, a rope swing and an apple tree",
                known: "in the garden",
                ground: "in the tall grass",
                lights: [
                    "clear morning light with dew",
                    "dappled light under the apple tree",
                    "long golden light before supper",
                ],
            },
            FilmSetting {
                full: "in a tent of blankets between two chairs, with a torch hanging inside",
                known: "inside the blanket tent",
                ground: "under the hanging torch",
                lights: [
                    "a warm cone of torch light",
                    "daylight glowing through the blankets",
                    "dim blue light with one bright spot",
                ],
            },
        ],
        arrivals: [
            "crouches down until {} fill{s} the view",
            "pushes {} slowly into the frame",
            "holds {} up to the light and turns {them}",
        ],
        uses: [
            "sets {} in motion and watches with an open mouth",
            "lies flat on the floor, eye to eye with {}",
            "passes {} on with great care",
            "builds a small gate and leads {} through it",
            "laughs as {} come{s} to rest",
            "carries {} home through the evening",
        ],
    },
    Field {
        words: &[],
        people: ["a craftsman", "a visitor", "a neighbour"],
        places: [
            FilmSetting {
                full: "in a workshop with a wide wooden bench, tools on the wall and a dusty window",
                known: "in the workshop",
                ground: "on the wooden bench",
                lights: [
                    "cool morning light through the dusty window",
                    "a beam of sun full of floating dust",
                    "one warm bulb over the bench, darkness around it",
                ],
            },
            FilmSetting {
                full: "on a quiet square with plane trees, a stone fountain and a few empty chairs",
                known: "on the quiet square",
                ground: "on the rim of the fountain",
                lights: [
                    "pale early light, the stones still wet",
                    "moving spots of sun under the trees",
                    "warm lamp light and a dark blue sky",
                ],
            },
            FilmSetting {
                full: "on a bare stage with a plain grey backdrop and a polished floor",
                known: "on the bare stage",
                ground: "on the polished floor",
                lights: [
                    "one soft light from high on the left",
                    "a thin bright outline from behind",
                    "a slow sweep of light from right to left",
                ],
            },
        ],
        arrivals: [
            "brings {} into the light",
            "lays one hand on {} and draws {them} nearer",
            "puts {} down and takes one step back",
        ],
        uses: [
            "turns {} slowly so that every side is seen",
            "tries {} for the first time, carefully",
            "hands {} to somebody just outside the frame",
            "holds {} close to the lens",
            "uses {} with one sure movement",
            "looks from {} to the horizon and nods",
        ],
    },
];
