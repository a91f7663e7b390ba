"""Hand-made scenes for tests."""

from PIL import Image

from seedling.scenes.colors import make_pure_color_shares
from seedling.scenes.scene import Scene, SceneObject, SceneWord


def make_object(category: str, box: tuple[float, float, float, float], color: str = "red") -> SceneObject:
    """Returns an object of one color, with a triangle as its outline."""
    ring = [box[0], box[1], box[2], box[1], box[2], box[3]]
    return SceneObject(category, "noto/x", box, [ring], make_pure_color_shares(color))


def make_scene(*objects: SceneObject, words: tuple[SceneWord, ...] = ()) -> Scene:
    """Returns a scene of 300 × 300 pixels with a blue background."""
    return Scene(Image.new("RGB", (300, 300)), objects, words, "blue")
