#!/usr/bin/env python3
"""Twenty product photos of the kinds that shops deliver, and what storyloom must make of them.

    scripts/product_photos.py make FOLDER          writes the photos, briefs.jsonl and expected.json
    scripts/product_photos.py check FOLDER RUN     holds the remembered pictures of a run against them
    scripts/product_photos.py browser FOLDER RUN   holds them against the photos as Chromium shows these

Needs Pillow with littleCMS and AVIF (`pip install pillow==12.0.0`). Every photo shows one disc on a
plain ground; both colours are chosen in sRGB and stored in the way of the photo's kind, so that the
right result is known without reading the photo again. `check` prints a line a photo: the aspect of
the disc, and how many levels its colour and that of the ground differ from those that were meant. It
ends with 1 if an aspect is off by more than 2 % or a colour by more than 3 levels. `browser` does the
same for colours with a reader that nobody here wrote; it leaves TIFF out, which Chromium does not show."""

import base64
import io
import json
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import zlib

from PIL import Image, ImageCms, ImageDraw

GROUND = (236, 232, 224)
WHITE = (255, 255, 255)
ASPECT, LEVELS = 0.02, 3.0
# Drawn larger and then reduced, so that the edge of the disc is smooth.
OVERSAMPLING = 4


def disc(mode, size, colour, ground, radius=0.34):
    """A disc in the middle of a plain ground; `radius` counts in shorter sides."""
    width, height = (side * OVERSAMPLING for side in size)
    picture = Image.new(mode, (width, height), ground)
    r = radius * min(width, height)
    box = (width / 2 - r, height / 2 - r, width / 2 + r - 1, height / 2 + r - 1)
    ImageDraw.Draw(picture).ellipse(box, fill=colour)
    return picture.resize(size, Image.Resampling.BOX)


def cut_out(size, colour, hidden):
    """The disc on a transparent ground, whose invisible pixels have the colour `hidden`."""
    alpha = disc("L", size, 255, 0)
    picture = Image.new("RGBA", size, (*hidden, 0))
    picture.paste(Image.new("RGBA", size, (*colour, 255)), mask=alpha.point(lambda level: 255 if level else 0))
    picture.putalpha(alpha)
    return picture


def exif(orientation):
    """EXIF data that say nothing but how the camera was held."""
    data = Image.Exif()
    data[0x112] = orientation
    return data.tobytes()


# How a camera stores an upright picture that is to be shown with this orientation.
STORED = {2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180],
          6: [Image.Transpose.ROTATE_90], 8: [Image.Transpose.ROTATE_270],
          5: [Image.Transpose.TRANSPOSE], 7: [Image.Transpose.TRANSVERSE]}


def turned(picture, orientation):
    for step in STORED[orientation]:
        picture = picture.transpose(step)
    return picture


def s15_fixed16(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def display_p3():
    """A matrix profile with the primaries of Display P3 and the transfer curve of sRGB (ICC.1:2001-04)."""
    curve = struct.pack(">4s4xHH", b"para", 3, 0) + s15_fixed16(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    xyz = lambda *values: struct.pack(">4s4x", b"XYZ ") + s15_fixed16(*values)
    words = b"Display P3\0"
    description = struct.pack(">4s4xI", b"desc", len(words)) + words + bytes(4 + 4 + 2 + 1 + 67)
    tags = {b"desc": description, b"cprt": struct.pack(">4s4x", b"text") + b"public domain\0",
            b"wtpt": xyz(0.9642, 1.0, 0.8249), b"rXYZ": xyz(0.51512, 0.24120, -0.00105),
            b"gXYZ": xyz(0.29198, 0.69225, 0.04189), b"bXYZ": xyz(0.15710, 0.06657, 0.78407),
            b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    size = 128 + len(table) + len(body)
    header = struct.pack(">I4sI4s4s4s12s4s4sI4s4s8sI12s4s", size, b"\0\0\0\0", 0x02400000, b"mntr", b"RGB ", b"XYZ ",
                         struct.pack(">6H", 2026, 1, 1, 0, 0, 0), b"acsp", b"\0\0\0\0", 0, b"\0\0\0\0", b"\0\0\0\0",
                         bytes(8), 0, s15_fixed16(0.9642, 1.0, 0.8249), b"\0\0\0\0")
    return header + bytes(128 - len(header)) + table + body


def in_p3(colour):
    """The same colour in Display P3 (D65 matrices of both spaces)."""
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    rows = ((0.82246, 0.17754, 0.0), (0.03319, 0.96681, 0.0), (0.01708, 0.07240, 0.91052))
    out = [sum(a * b for a, b in zip(row, linear)) for row in rows]
    return tuple(round(255 * (12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055)) for c in out)


def png16(picture):
    """An RGB or RGBA picture as PNG of 16 bits a channel, which Pillow does not write."""
    kind, channels = (6, 4) if picture.mode == "RGBA" else (2, 3)
    stride = picture.width * channels
    data = picture.tobytes()
    rows = b"".join(b"\0" + b"".join(bytes((level, level)) for level in data[y * stride:(y + 1) * stride])
                    for y in range(picture.height))

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    head = struct.pack(">IIBBBBB", picture.width, picture.height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def saved(picture, form, **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def photos():
    """Name, bytes, colour of the disc, colour of the ground, and the shape of the film where the brief asks for one."""
    wide, tall, square = (1200, 900), (900, 1200), (1000, 1000)
    jpeg = {"quality": 95, "subsampling": 0}
    red, green, blue, gold, violet, grey = (200, 30, 60), (30, 140, 70), (40, 70, 180), (214, 160, 40), (120, 60, 150), (90, 90, 90)
    yield "plain.jpg", saved(disc("RGB", wide, red, GROUND), "JPEG", **jpeg), red, GROUND, None
    for orientation, colour in ((3, green), (6, blue), (8, gold), (2, violet), (5, red)):
        upright = disc("RGB", tall, colour, GROUND)
        data = saved(turned(upright, orientation), "JPEG", exif=exif(orientation), **jpeg)
        yield f"orientation-{orientation}.jpg", data, colour, GROUND, None
    yield "cut-out.png", saved(cut_out(square, red, (0, 255, 0)), "PNG"), red, WHITE, [80, 128]
    yield "cut-out-black.png", saved(cut_out(wide, blue, (0, 0, 0)), "PNG"), blue, WHITE, None
    palette = cut_out(square, green, (0, 0, 0))
    flat = Image.new("RGB", square, (1, 2, 3))
    flat.paste(green, mask=palette.getchannel("A").point(lambda level: 255 if level > 127 else 0))
    flat = flat.quantize(8)
    clear = flat.getpixel((0, 0))
    yield "palette.png", saved(flat, "PNG", transparency=clear), green, WHITE, [128, 128]
    yield "sixteen.png", png16(disc("RGB", wide, gold, GROUND)), gold, GROUND, None
    yield "sixteen-cut-out.png", png16(cut_out(square, violet, (255, 255, 0))), violet, WHITE, None
    grey_cut = Image.merge("LA", (Image.new("L", wide, 90), disc("L", wide, 255, 0)))
    yield "grey-cut-out.png", saved(grey_cut, "PNG"), grey, WHITE, None
    p3 = {"icc_profile": display_p3()}
    yield "phone-p3.jpg", saved(disc("RGB", tall, in_p3(red), in_p3(GROUND)), "JPEG", **jpeg, **p3), red, GROUND, [160, 96]
    yield "p3.png", saved(disc("RGB", square, in_p3(green), in_p3(GROUND)), "PNG", **p3), green, GROUND, None
    # Without a profile, ink is taken away from white: 255 - level of each of the three colours.
    ink = lambda colour: (*(255 - level for level in colour), 0)
    yield "print.jpg", saved(disc("CMYK", wide, ink(red), ink(GROUND)), "JPEG", **jpeg), red, GROUND, None
    yield "shop.webp", saved(disc("RGB", square, blue, GROUND), "WEBP", quality=95), blue, GROUND, None
    turned_cut = turned(cut_out(tall, gold, (0, 0, 255)), 6)
    yield "shop-cut-out.webp", saved(turned_cut, "WEBP", lossless=True, exact=True, exif=exif(6)), gold, WHITE, [96, 160]
    yield "shop.avif", saved(disc("RGB", wide, violet, GROUND), "AVIF", quality=95, subsampling="4:4:4"), violet, GROUND, None
    yield "shop-cut-out.avif", saved(cut_out(square, red, (0, 255, 255)), "AVIF", quality=95, subsampling="4:4:4"), red, WHITE, None
    yield "archive.tif", saved(disc("RGB", tall, green, GROUND), "TIFF", compression="tiff_lzw"), green, GROUND, None


def make(folder):
    folder.mkdir(parents=True, exist_ok=True)
    briefs, expected = [], {}
    for name, data, colour, ground, size in photos():
        (folder / name).write_bytes(data)
        story = name.replace(".", "-")
        brief = {"id": story, "title": f"The {story} ball", "product_image": name, "shots": 2, "seed": 7}
        briefs.append(brief | ({"size": size} if size else {}))
        # A camera that was turned: the upright picture is tall.
        tall = "tall" if size is None and name.startswith("orientation") else None
        expected[story] = {"photo": name, "disc": colour, "ground": ground, "shape": tall}
    (folder / "briefs.jsonl").write_text("".join(json.dumps(brief) + "\n" for brief in briefs))
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    print(f"{len(briefs)} photos, briefs.jsonl and expected.json in {folder}")


def measured(picture, colour, ground):
    """Aspect of the disc by its second moments, and the median colours inside and outside."""
    pixels = picture.convert("RGB")
    weights = disc_weights(pixels, colour, ground)
    total = sum(sum(row) for row in weights)
    mean = [sum(x * w for row in weights for x, w in enumerate(row)) / total,
            sum(y * sum(row) for y, row in enumerate(weights)) / total]
    spread = [sum((x - mean[0]) ** 2 * w for row in weights for x, w in enumerate(row)) / total,
              sum((y - mean[1]) ** 2 * sum(row) for y, row in enumerate(weights)) / total]
    inside = pixels.getpixel((round(mean[0]), round(mean[1])))
    # A disc reaches two deviations from its middle; the photo's ground lies just outside of it.
    outside = pixels.getpixel((round(mean[0] + 2.5 * spread[0] ** 0.5), round(mean[1])))
    return (spread[0] / spread[1]) ** 0.5, inside, outside


def disc_weights(pixels, colour, ground):
    """How much of each pixel is disc: its place on the line from the ground's colour to the disc's."""
    line = [a - b for a, b in zip(colour, ground)]
    length = sum(step * step for step in line)

    def weight(pixel):
        share = sum((level - base) * step for level, base, step in zip(pixel, ground, line)) / length
        return min(max(share, 0.0), 1.0)
    data = list(pixels.get_flattened_data() if hasattr(pixels, "get_flattened_data") else pixels.getdata())
    return [[weight(pixel) for pixel in data[y * pixels.width:(y + 1) * pixels.width]] for y in range(pixels.height)]


def check(folder, run):
    wrong = 0
    for story, wanted in json.loads((folder / "expected.json").read_text()).items():
        kept = sorted((run / "stories" / story / "keyframes").glob("00_00_keyframe0*.png"))
        if not kept:
            print(f"WRONG {wanted['photo']}: nothing of it is remembered")
            wrong += 1
            continue
        picture = Image.open(kept[0])
        aspect, inside, outside = measured(picture, wanted["disc"], wanted["ground"])
        off = [max(abs(a - b) for a, b in zip(*pair)) for pair in ((inside, wanted["disc"]), (outside, wanted["ground"]))]
        upright = wanted["shape"] != "tall" or picture.height > picture.width
        right = upright and abs(aspect - 1) <= ASPECT and max(off) <= LEVELS
        wrong += not right
        print(f"{'ok   ' if right else 'WRONG'} {wanted['photo']:22} kept {picture.width}x{picture.height}, "
              f"aspect {aspect:.3f}, disc off by {off[0]}, ground by {off[1]}")
    print(f"{wrong} wrong")
    return 1 if wrong else 0


# Both pictures on white in a canvas; of each the colours in its middle and beside its disc.
PAGE = """<pre id=out></pre><script>
const pairs = PAIRS;
const seen = source => new Promise((done, fail) => {
  const image = new Image();
  image.onerror = fail;
  image.onload = () => {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext('2d', {colorSpace: 'srgb'});
    context.fillStyle = 'white';
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0);
    done([...context.getImageData(canvas.width >> 1, canvas.height >> 1, 1, 1).data].slice(0, 3));
  };
  image.src = source;
});
Promise.all(pairs.map(async ([name, photo, kept]) => [name, await seen(photo), await seen(kept)]))
  .then(found => { document.getElementById('out').textContent = JSON.stringify(found); });
</script>"""
KINDS = {".jpg": "jpeg", ".png": "png", ".webp": "webp", ".avif": "avif"}


def browser(folder, run):
    pairs = []
    for story, wanted in json.loads((folder / "expected.json").read_text()).items():
        photo = folder / wanted["photo"]
        kept = run / "stories" / story / "keyframes" / "00_00_keyframe0.png"
        if photo.suffix in KINDS:
            address = lambda file, kind: f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
            pairs.append([wanted["photo"], address(photo, KINDS[photo.suffix]), address(kept, "png")])
    with tempfile.TemporaryDirectory() as work:
        page = pathlib.Path(work) / "page.html"
        page.write_text(PAGE.replace("PAIRS", json.dumps(pairs)))
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={work}/profile",
                   "--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
        dom = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout.decode()
    found = json.loads(re.search(r"<pre id=\"out\">(.*?)</pre>", dom, re.S).group(1))
    wrong = 0
    for name, photo, kept in found:
        off = max(abs(a - b) for a, b in zip(photo, kept))
        wrong += off > LEVELS
        print(f"{'ok   ' if off <= LEVELS else 'WRONG'} {name:22} photo {photo}, remembered {kept}")
    print(f"{len(found)} compared, {wrong} wrong")
    return 1 if wrong or not found else 0


def main(arguments):
    match arguments:
        case ["make", folder]:
            make(pathlib.Path(folder))
        case ["check", folder, run]:
            return check(pathlib.Path(folder), pathlib.Path(run))
        case ["browser", folder, run]:
            return browser(pathlib.Path(folder), pathlib.Path(run))
        case _:
            print(__doc__, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
