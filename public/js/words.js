/**
 * The words room names are made of: short, common, said and spelt without doubt, and harmless in any order.
 *
 * Owns the list only. Every word counts once: a repeated one would make names easier to guess.
 */
export const WORDS = Object.freeze(
  `
acorn album alley almond amber anchor angel ankle apple april apron arch arena arrow aspen atlas attic autumn avenue
award badge bagel baker balcony ballad bamboo banana banjo banner barley barn basil basin basket bath beach beacon
beaver bell bench berry bicycle birch bishop blanket blossom boat bonfire book boot border bottle boulder bowl box
branch brass bread breeze brick bridge brook broom brush bucket buffalo bugle bundle button cabin cable cactus camel
camera campus canal candle canoe canvas canyon cape captain caramel carbon cargo carpet carrot castle cave cedar cello
chain chalk chapel cherry chess chestnut chimney chorus cider cinema circle circus citrus clock cloud clover coast
cobalt cocoa coffee comet compass copper coral corner cotton cottage cousin cradle crane crater crayon cream creek
cricket crown crystal curtain custard cycle daisy dance dawn delta denim desert diamond dinner dock doctor dolphin
donkey door dragon drawer dream drum duck dune eagle early earth easel echo eclipse elbow elder elephant elm ember
emerald engine evening fable factory falcon family farm feather fennel fern ferry festival fiddle field finch finger
fjord flag flame flint flute forest fork fossil fountain fox frame friday frost galaxy garden garlic gate gazelle
gecko ginger giraffe glacier glass globe glove goat golden goose grain granite grape gravel guitar gull hammer hammock
harbor harp harvest hawk hazel hedge helmet heron hickory hill hockey holiday honey hotel house iceberg igloo indigo
iris iron island ivory ivy jacket jaguar jasmine jelly jigsaw journal judge juice july jungle june juniper kangaroo
karate kayak kettle keyboard kingdom kitchen kite kitten kiwi koala ladder lagoon lake lamp lantern laptop larch lark
laurel lava lavender lemon lentil leopard letter library lilac lily lime linen lion lizard llama lobster locket lotus
lumber lunar lunch lynx magnet magpie mango mantle maple marble march market marsh mask meadow medal melody melon
mercury metal meteor mill mimosa mint mirror mitten moment monday monkey month moose morning mosaic moss motor
mountain muffin museum music mustard napkin nature navy nectar needle nest nickel night noodle north notebook november
nugget nutmeg oasis ocean october olive onion opal opera orange orbit orchard orchid otter oven owl oxygen oyster
paddle palace palm panda panel paper parade park parrot parsley pasta pastel path peach peanut pearl pebble pelican
pencil penguin pepper piano picnic pigeon pillow pilot pine pirate planet plaza plum pocket poem polar pond pony
poplar poppy postcard potato prairie prism puffin pumpkin puppet puzzle quail quartz queen quilt quiver rabbit radio
radish railway rainbow raven ribbon rice river robin rocket rose ruby runner saddle saffron sailor salad salmon sandal
sapphire satin saturn saucer scarf school seal season secret shadow shell shelter silk silver singer sketch sky
slipper smile snow sofa sonnet soup south sparrow spinach spiral spoon spring spruce square squirrel stable station
statue stone storm story stream studio sugar summer sunday sunset swan table tango tea teapot temple tennis theater
thimble thistle thunder tiger timber toast tomato topaz torch tower tractor trail train trumpet tulip tunnel turtle
tuxedo twig umbrella uncle unicorn valley vanilla velvet village vine violet violin volcano voyage waffle wagon walnut
walrus water weaver wednesday whale wheel whisker willow window winter wizard wolf wonder wood wool yacht yellow
yogurt zebra zephyr zero zigzag zinc
`
    .trim()
    .split(/\s+/),
);
