//! What there is in the world: products, characters, places, and how a camera sees them.

use serde::{Deserialize, Serialize};

use super::words::words;

words! {
    /// Colours of products, clothes and places.
    Colour {
        Red = "red",
        Orange = "orange",
        Yellow = "yellow",
        Green = "green",
        Blue = "blue",
        Purple = "purple",
        Pink = "pink",
        White = "white",
    }
}

words! {
    /// What a product is; decides its shape.
    ProductKind {
        Mug = "mug",
        Bottle = "bottle",
        Lamp = "lamp",
        Backpack = "backpack",
        Shoe = "shoe",
        Watch = "watch",
        Chair = "chair",
        Kettle = "kettle",
        Suitcase = "suitcase",
        Cap = "cap",
        Book = "book",
        Ball = "ball",
        Umbrella = "umbrella",
        Drum = "drum",
        Car = "car",
    }
}

words! {
    /// What is painted on a product, in its second colour.
    Marking {
        Plain = "plain",
        Dot = "dot",
        Band = "band",
        Stripes = "stripes",
        Star = "star",
        Heart = "heart",
    }
}

words! {
    /// What a character does for a living; decides its silhouette.
    Role {
        Courier = "courier",
        Baker = "baker",
        Girl = "girl",
        Gardener = "gardener",
        Wizard = "wizard",
        Pirate = "pirate",
        Queen = "queen",
        Knight = "knight",
        Astronaut = "astronaut",
        Robot = "robot",
    }
}

words! {
    /// Skin tones.
    Skin {
        Light = "light",
        Brown = "brown",
        Dark = "dark",
    }
}

words! {
    /// Hair colours.
    Hair {
        Black = "black",
        Blond = "blond",
        Ginger = "ginger",
        Grey = "grey",
    }
}

words! {
    /// What kind of place it is.
    Setting {
        Kitchen = "kitchen",
        Bedroom = "bedroom",
        Library = "library",
        Workshop = "workshop",
        Street = "street",
        Park = "park",
        Beach = "beach",
        Forest = "forest",
        Harbor = "harbor",
        Mountains = "mountains",
        Farm = "farm",
        Desert = "desert",
    }
}

words! {
    /// The time of the day.
    Light {
        Morning = "morning light",
        Day = "bright daylight",
        Evening = "evening light",
        Night = "night",
    }
}

words! {
    /// How much of the subject fills the picture.
    Framing {
        Wide = "wide shot",
        Medium = "medium shot",
        Close = "close-up",
    }
}

words! {
    /// What the camera does.
    Camera {
        Fixed = "fixed camera",
        PushIn = "slow push in",
        PanLeft = "slow pan left",
        PanRight = "slow pan right",
    }
}

words! {
    /// What the subject does.
    Action {
        Stand = "stands",
        Walk = "walks",
        Wave = "waves",
        Jump = "jumps",
        Rock = "rocks gently",
        Float = "floats up",
        Hold = "holds",
        Lift = "lifts",
    }
}

/// Colours of places: white walls would swallow white products.
pub const PLACE_COLOURS: &[Colour] = &[
    Colour::Red,
    Colour::Orange,
    Colour::Yellow,
    Colour::Green,
    Colour::Blue,
    Colour::Purple,
    Colour::Pink,
];

/// A product and what makes it this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Product {
    /// What it is.
    pub kind: ProductKind,
    /// The colour of its body.
    pub body: Colour,
    /// The colour of its trim and its marking; not that of its body.
    pub second: Colour,
    /// What is painted on it.
    pub marking: Marking,
}

/// A character and what makes it this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Character {
    /// What they are.
    pub role: Role,
    /// The colour of their clothes.
    pub top: Colour,
    /// The colour of what they wear on their head; not that of their clothes.
    pub accent: Colour,
    /// Their skin; a robot has none.
    pub skin: Option<Skin>,
    /// Their hair, where it shows.
    pub hair: Option<Hair>,
}

/// A place and what makes it this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// What kind of place it is.
    pub setting: Setting,
    /// The colour of its walls, houses, trees, ….
    pub colour: Colour,
}

impl Role {
    /// Whether they have skin to see.
    pub const fn has_skin(self) -> bool {
        !matches!(self, Self::Robot)
    }

    /// Whether their hair is seen.
    pub const fn has_hair(self) -> bool {
        !matches!(self, Self::Robot | Self::Astronaut | Self::Knight)
    }

    /// The word for their clothes.
    pub const fn clothes(self) -> &'static str {
        match self {
            Self::Courier | Self::Pirate => "coat",
            Self::Baker | Self::Gardener => "shirt",
            Self::Girl | Self::Queen => "dress",
            Self::Wizard => "robe",
            Self::Knight => "tunic",
            Self::Astronaut => "suit",
            Self::Robot => "body",
        }
    }

    /// The word for what has their second colour.
    pub const fn accent(self) -> &'static str {
        match self {
            Self::Courier => "cap",
            Self::Girl => "bow",
            Self::Queen => "crown",
            Self::Knight => "plume",
            Self::Astronaut => "helmet",
            Self::Robot => "antenna",
            Self::Baker | Self::Gardener | Self::Wizard | Self::Pirate => "hat",
        }
    }
}

impl Setting {
    /// Whether it is a room.
    pub const fn is_indoor(self) -> bool {
        matches!(
            self,
            Self::Kitchen | Self::Bedroom | Self::Library | Self::Workshop
        )
    }

    /// The word before it: "in" a kitchen, "at" a harbor.
    pub const fn preposition(self) -> &'static str {
        match self {
            Self::Street | Self::Beach | Self::Farm => "on",
            Self::Harbor => "at",
            _ => "in",
        }
    }

    /// The word for what has the place's colour.
    pub const fn coloured_part(self) -> &'static str {
        match self {
            Self::Kitchen | Self::Bedroom | Self::Workshop => "walls",
            Self::Library => "shelves",
            Self::Street => "houses",
            Self::Park | Self::Forest => "trees",
            Self::Beach => "parasols",
            Self::Harbor => "sails",
            Self::Mountains => "peaks",
            Self::Farm => "barns",
            Self::Desert => "tents",
        }
    }
}

impl Action {
    /// What a product alone can do.
    pub const PRODUCT: &'static [Self] = &[Self::Stand, Self::Rock, Self::Jump, Self::Float];
    /// What a character alone can do.
    pub const CHARACTER: &'static [Self] = &[Self::Stand, Self::Walk, Self::Wave, Self::Jump];
    /// What a character can do with a product.
    pub const BOTH: &'static [Self] = &[Self::Hold, Self::Lift];
}
