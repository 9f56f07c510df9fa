"""The augmentation against serving's preprocessing, exact transformations, and slow oracles."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fer_app.contract import Contract
from fer_app.labels import LABELS
from fer_app.preprocess import to_input
from training import augment_geometry as geometry
from training import augment_pixels as pixels
from training.augment import COLUMNS, AugmentSpec, BatchAugment, epoch_draws

GRAY = ([0.5], [0.25])
RGB = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

# One setting a knob, strong enough to be seen.
KNOBS = {
    "crop": {"crop_scale": (0.3, 0.6), "crop_ratio": (0.75, 4 / 3)},
    "hflip": {"hflip": 0.5},
    "rotation": {"rotation_deg": 25.0},
    "translate": {"translate": 0.15},
    "zoom": {"zoom": (0.75, 4 / 3)},
    "shear": {"shear": 0.2},
    "brightness": {"brightness": 0.4},
    "contrast": {"contrast": 0.4},
    "saturation": {"saturation": 0.8},
    "hue": {"hue": 0.2},
    "gray": {"gray_p": 0.5},
    "gamma": {"gamma": 0.5},
    "blur": {"blur_p": 0.5, "blur_sigma_px": (1.0, 2.0)},
    "lowres": {"lowres_p": 0.5, "lowres_factor": (0.2, 0.5)},
    "noise": {"noise_std": 0.1},
    "erase": {"erase_p": 0.5},
    "erase noise": {"erase_p": 0.5, "erase_fill": "noise"},
}
EVERYTHING = {key: value for knob in KNOBS.values() for key, value in knob.items()}


@pytest.fixture
def smooth(astronaut):
    """Pictures with large and small structure: uint8, (6, 3, 64, 64)."""
    cuts = [(60, 100, 320), (0, 0, 512), (90, 180, 128), (100, 200, 64), (300, 60, 200), (150, 150, 77)]
    squares = [astronaut[y : y + s, x : x + s] for y, x, s in cuts]
    resized = [cv2.resize(s, (64, 64), interpolation=cv2.INTER_AREA) for s in squares]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()


def augment(images, img_size, spec=None, *, draws=None, **options):
    run = BatchAugment(AugmentSpec(**(spec or {})), img_size, *(RGB if images.shape[1] == 3 else GRAY), **options)
    return run(images, epoch_draws(0, 0, len(images), 1, run.n_draws)[:, 0] if draws is None else draws)


def neutral_draws(n, **columns):
    """Draws that put every two-sided knob at its middle; named columns as given."""
    draws = torch.full((n, len(COLUMNS)), 0.5)
    for name, value in columns.items():
        draws[:, COLUMNS.index(name)] = value
    return draws


class TestIdentity:
    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    @pytest.mark.parametrize("img_size", [64, 48, 32, 37, 80, 112, 128])
    @pytest.mark.parametrize("color", ["rgb", "gray of rgb", "gray"])
    def test_is_what_serving_does(self, smooth, img_size, interpolation, color):
        mean, std = RGB if color == "rgb" else GRAY
        crops = smooth.permute(0, 2, 3, 1).numpy()
        if color == "gray":
            smooth = smooth[:, 1:2]
            crops = smooth[:, 0].numpy()
        contract = Contract(
            labels=LABELS,
            img_size=img_size,
            color_mode="rgb" if color == "rgb" else "gray",
            in_chans=len(mean),
            mean=tuple(mean),
            std=tuple(std),
            crop="fer48-v1",
            interpolation=interpolation,
        )
        run = BatchAugment(AugmentSpec(), img_size, mean, std, interpolation=interpolation)
        ours = run(smooth, epoch_draws(0, 0, 6, 1, run.n_draws)[:, 0])
        on_0_to_255 = 255 * np.array(std).reshape(1, -1, 1, 1)
        np.testing.assert_array_less(np.abs(ours.numpy() - to_input(crops, contract)) * on_0_to_255, 1.0)

    def test_luma_can_fill_three_channels(self, smooth):
        contract = Contract(
            labels=LABELS, img_size=48, color_mode="gray", in_chans=3, mean=tuple(RGB[0]), std=tuple(RGB[1]), crop="x"
        )
        ours = augment(smooth, 48, color_mode="gray")
        theirs = to_input(smooth.permute(0, 2, 3, 1).numpy(), contract)
        assert (ours - torch.from_numpy(theirs)).abs().max() * 0.229 * 255 < 1
        run = BatchAugment(AugmentSpec(), 48, *RGB)
        assert run(smooth[:, :1], neutral_draws(6)).shape == (6, 3, 48, 48)

    @pytest.mark.parametrize("name", [*KNOBS])
    def test_a_knob_at_its_middle_changes_nothing(self, smooth, name):
        """Geometry interpolates even then, so 64 -> 64 px, where the samples fall on the pixels."""
        spec = KNOBS[name] | {"crop_scale": (1.0, 1.0)}
        middle = neutral_draws(6, hflip=0.99, gray=0.99, blur=0.99, lowres=0.99, erase=0.99, noise_std=0.0)
        difference = augment(smooth, 64, spec, draws=middle) - augment(smooth, 64, draws=middle)
        assert difference.abs().max() < 1e-4


class TestDraws:
    def test_a_draw_is_a_function_of_seed_epoch_sample_and_view(self):
        whole = epoch_draws(7, 3, 50, 2, 11)
        assert whole.shape == (50, 2, 11)
        assert whole.dtype == torch.float32
        assert torch.equal(whole[:20], epoch_draws(7, 3, 20, 2, 11))
        assert torch.equal(whole[:, :1], epoch_draws(7, 3, 50, 1, 11))
        for first in range(50):
            assert torch.equal(whole[first:], epoch_draws(7, 3, 50 - first, 2, 11, first=first))
        rows = [whole[:, 0], whole[:, 1], epoch_draws(8, 3, 50, 1, 11)[:, 0], epoch_draws(7, 4, 50, 1, 11)[:, 0]]
        assert len(torch.cat(rows).flatten().unique()) > 0.99 * 4 * 50 * 11

    def test_draws_are_uniform(self):
        draws = epoch_draws(0, 0, 4000, 1, 8)
        assert draws.min() >= 0
        assert draws.max() < 1
        counts = torch.histc(draws, bins=20, min=0, max=1)
        assert ((counts / 1600) - 1).abs().max() < 0.1
        correlation = np.corrcoef(draws[:, 0].numpy().T) - np.eye(8)
        assert np.abs(correlation).max() < 0.08

    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_sample_does_not_depend_on_its_batch(self, smooth, channels):
        images = smooth[:, :channels]
        draws = epoch_draws(1, 1, 6, 1, len(COLUMNS))[:, 0]
        whole = augment(images, 48, EVERYTHING, draws=draws)
        order = torch.tensor([4, 1, 3])
        torch.testing.assert_close(augment(images[order], 48, EVERYTHING, draws=draws[order]), whole[order])
        alone = torch.cat([augment(images[i : i + 1], 48, EVERYTHING, draws=draws[i : i + 1]) for i in range(6)])
        torch.testing.assert_close(alone, whole)
        assert augment(images[:0], 48, EVERYTHING, draws=draws[:0]).shape == (0, channels, 48, 48)

    @pytest.mark.parametrize("name", [*KNOBS])
    def test_every_knob_acts_through_its_own_columns_alone(self, smooth, name):
        draws = epoch_draws(2, 0, 6, 1, len(COLUMNS))[:, 0]
        plain = augment(smooth, 64, draws=draws)
        changed = augment(smooth, 64, KNOBS[name], draws=draws)
        assert (changed - plain).abs().max() > 0.05
        # Redrawing the columns of all other knobs must not matter.
        own = {"translate": "shift"}.get(name, name.split()[0])
        other = epoch_draws(3, 0, 6, 1, len(COLUMNS))[:, 0]
        for i, column in enumerate(COLUMNS):
            if column.startswith(own):
                other[:, i] = draws[:, i]
        torch.testing.assert_close(augment(smooth, 64, KNOBS[name], draws=other), changed)

    def test_the_batch_and_its_generator_state_are_left_alone(self, smooth):
        before, state = smooth.clone(), torch.get_rng_state()
        augment(smooth, 48, EVERYTHING)
        assert torch.equal(before, smooth)
        assert torch.equal(state, torch.get_rng_state())


class TestGeometry:
    def test_flip(self, smooth):
        flipped = augment(smooth, 64, {"hflip": 1.0})
        torch.testing.assert_close(flipped, augment(smooth, 64).flip(3))
        with_a_map = augment(smooth, 64, {"hflip": 1.0, "rotation_deg": 1.0}, draws=neutral_draws(6))
        torch.testing.assert_close(with_a_map, flipped, atol=1e-4, rtol=0)

    def test_quarter_turn_is_counter_clockwise(self, smooth):
        turned = augment(smooth, 64, {"rotation_deg": 90.0}, draws=neutral_draws(6, rotation=1.0))
        torch.testing.assert_close(turned, augment(smooth, 64).rot90(1, (2, 3)), atol=2e-4, rtol=0)

    def test_shift_is_right_and_down(self, smooth):
        draws = neutral_draws(6, shift_x=1.0, shift_y=0.75)
        moved = augment(smooth, 64, {"translate": 0.125}, draws=draws)
        torch.testing.assert_close(moved[:, :, 4:, 8:], augment(smooth, 64)[:, :, :-4, :-8], atol=1e-4, rtol=0)

    def test_zoom_doubles_the_centre(self, smooth):
        zoomed = augment(smooth, 128, {"zoom": (2.0, 2.0)})
        whole = torch.nn.functional.interpolate(augment(smooth, 64), scale_factor=4, mode="bilinear")
        torch.testing.assert_close(zoomed, whole[..., 64:192, 64:192], atol=1e-4, rtol=0)

    def test_a_crop_is_the_window_resized(self, smooth):
        spec = {"crop_scale": (0.25, 0.25)}
        for (x, y), (left, top) in {(0.0, 0.0): (0, 0), (1.0, 0.5): (32, 16), (0.25, 1.0): (8, 32)}.items():
            cropped = augment(smooth, 32, spec, draws=neutral_draws(6, crop_x=x, crop_y=y))
            window = smooth[:, :, top : top + 32, left : left + 32]
            # The stored picture is twice the output, so two points a pixel and axis are averaged.
            expected = augment(window, 64)
            inner = torch.nn.functional.avg_pool2d(expected, 2)[..., 1:-1, 1:-1]
            torch.testing.assert_close(cropped[..., 1:-1, 1:-1], inner, atol=1e-4, rtol=0)

    def test_a_wide_window_is_cut_to_the_picture(self):
        area, ratio, middle = torch.tensor([0.9]), torch.tensor([4.0]), torch.tensor([0.5])
        window = geometry.crop_map(area, ratio, middle, middle)[0]
        assert window[0].tolist() == pytest.approx([1.0, 0.0, 0.0])
        assert window[1].tolist() == pytest.approx([0.0, (0.9 / 4) ** 0.5, 0.0])

    def test_composed_maps_against_opencv(self, smooth):
        """One interpolation through the product of maps: zoom, turn, skew, shift, in the picture's own pixels."""
        spec = {"rotation_deg": 30.0, "zoom": (0.8, 1.25), "translate": 0.1, "shear": 0.2, "padding": "zeros"}
        draws = neutral_draws(6, rotation=0.9, zoom=0.8, shift_x=0.2, shift_y=0.7, shear_x=0.1, shear_y=0.8)
        ours = augment(smooth, 64, spec, draws=draws) * torch.tensor(RGB[1])[:, None, None]
        ours = ours + torch.tensor(RGB[0])[:, None, None]
        angle, factor = np.deg2rad(0.8 * 30), 0.8 * (1.25 / 0.8) ** 0.8
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        skew = np.array([[1, -0.8 * 0.2], [0.6 * 0.2, 1]])
        linear = turn @ skew / factor
        centre, shift = np.array([31.5, 31.5]), 64 * 0.1 * np.array([-0.6, 0.4])
        matrix = np.column_stack([linear, centre - linear @ (centre + shift)])
        for image, result in zip(smooth, ours, strict=True):
            pixels_in = image.permute(1, 2, 0).float().numpy() / 255
            drawn = cv2.warpAffine(pixels_in, matrix, (64, 64), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
            difference = np.abs(drawn - result.permute(1, 2, 0).numpy())
            assert np.quantile(difference, 0.99) < 0.03  # OpenCV rounds positions to 1/32 px

    def test_reflection_leaves_no_black_corners(self):
        white = torch.full((4, 1, 48, 48), 255, dtype=torch.uint8)
        strong = {"rotation_deg": 45.0, "translate": 0.3, "zoom": (0.5, 0.6)}
        for padding in ("reflection", "border"):
            assert augment(white, 48, strong | {"padding": padding}).min() == pytest.approx(2.0, abs=1e-4)
        assert augment(white, 48, strong | {"padding": "zeros"}).min() == pytest.approx(-2.0)

    def test_fine_patterns_do_not_alias(self):
        stripes = torch.zeros(1, 1, 96, 96, dtype=torch.uint8)
        stripes[..., ::2] = 255
        drawn = augment(stripes, 48, {"rotation_deg": 1.0}, draws=neutral_draws(1))
        assert drawn.abs().max() < 0.05  # mean 0.5 everywhere

    @pytest.mark.parametrize(("size", "smaller"), [(64, 48), (48, 48), (224, 48), (7, 3), (5, 1)])
    def test_area_weights_against_opencv(self, size, smaller):
        column = np.random.default_rng(0).random((size, size)).astype(np.float32)
        weights = geometry.area_weights(size, smaller, torch.device("cpu")).numpy()
        expected = cv2.resize(column, (smaller, smaller), interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(weights @ column @ weights.T, expected.reshape(smaller, smaller), atol=1e-5)


class TestPixels:
    def test_blur_against_opencv(self, smooth):
        images = smooth.float() / 255
        sigma = torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
        blurred = pixels.blur(images, sigma)
        for image, result, s in zip(images, blurred, sigma.tolist(), strict=True):
            expected = cv2.GaussianBlur(image.permute(1, 2, 0).numpy(), (61, 61), s)
            inner = slice(12, -12)
            np.testing.assert_allclose(result.permute(1, 2, 0).numpy()[inner, inner], expected[inner, inner], atol=1e-3)
        flat = torch.full((2, 1, 20, 20), 0.7)
        torch.testing.assert_close(pixels.blur(flat, torch.tensor([1.0, 9.0])), flat)

    def test_lower_resolution_against_opencv(self, smooth):
        images = smooth.float() / 255
        factor = torch.tensor([0.25, 0.5, 1.0, 0.333, 0.7, 0.25])
        lowered = pixels.lower_resolution(images, factor)
        for image, result, f in zip(images, lowered, factor.tolist(), strict=True):
            size = round(f * 64)
            down = cv2.resize(image.permute(1, 2, 0).numpy(), (size, size), interpolation=cv2.INTER_AREA)
            expected = cv2.resize(down, (64, 64), interpolation=cv2.INTER_LINEAR)
            np.testing.assert_allclose(result.permute(1, 2, 0).numpy(), expected, atol=1e-4)

    def test_brightness_contrast_gamma_by_hand(self):
        images = torch.tensor([0.2, 0.6]).reshape(1, 1, 1, 2)
        assert pixels.adjust_brightness(images, torch.tensor([1.5])).flatten().tolist() == pytest.approx([0.3, 0.9])
        assert pixels.adjust_brightness(images, torch.tensor([2.0])).flatten().tolist() == pytest.approx([0.4, 1.0])
        assert pixels.adjust_contrast(images, torch.tensor([0.5])).flatten().tolist() == pytest.approx([0.3, 0.5])
        assert pixels.adjust_contrast(images, torch.tensor([3.0])).flatten().tolist() == pytest.approx([0.0, 1.0])
        assert pixels.adjust_gamma(images, torch.tensor([2.0])).flatten().tolist() == pytest.approx([0.04, 0.36])

    def test_color_keeps_luma_and_saturation_zero_is_gray(self):
        images = 0.3 + 0.4 * torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
        ones, zeros = torch.ones(5), torch.zeros(5)
        torch.testing.assert_close(pixels.adjust_color(images, ones, zeros), images, atol=1e-5, rtol=0)
        gray = pixels.adjust_color(images, zeros, zeros)
        torch.testing.assert_close(gray, pixels.luma(images).expand_as(gray), atol=1e-4, rtol=0)
        turned = pixels.adjust_color(images, 0.5 * ones, torch.linspace(-0.3, 0.3, 5))
        torch.testing.assert_close(pixels.luma(turned), pixels.luma(images), atol=1e-4, rtol=0)
        third = pixels.adjust_color(torch.tensor([0.6, 0.4, 0.4]).reshape(1, 3, 1, 1), ones[:1], torch.tensor([1 / 3]))
        assert third.flatten().argmax() == 1  # red turned by a third is green, as in HSV

    def test_erase_by_hand(self):
        box = tuple(torch.tensor(edges) for edges in ([1.0, 0.0], [0.0, 0.0], [3.0, 0.0], [2.0, 0.0]))
        erased = pixels.erase(torch.ones(2, 1, 4, 4), box, torch.zeros(()))
        expected = torch.ones(4, 4)
        expected[0:2, 1:3] = 0
        assert torch.equal(erased[0, 0], expected)
        assert erased[1].all()

    def test_erased_areas_are_as_asked(self):
        images = torch.full((2000, 1, 32, 32), 255, dtype=torch.uint8)
        for fill in ("mean", "noise"):
            spec = {"erase_p": 0.25, "erase_area": (0.1, 0.2), "erase_ratio": (0.5, 2.0), "erase_fill": fill}
            area = (augment(images, 32, spec) != 2.0).float().mean(dim=(1, 2, 3))
            assert (area > 0).float().mean() == pytest.approx(0.25, abs=0.03)
            assert area[area > 0].min() > 0.07
            assert area.max() < 0.23
            assert area[area > 0].mean() == pytest.approx(0.15, abs=0.005)

    def test_noise_is_standard_and_differs_by_seed_and_place(self):
        noise = pixels.pixel_noise(torch.tensor([0.1, 0.7, 0.1]), (3, 60, 60))
        assert torch.equal(noise[0], noise[2])
        flat = noise[:2].flatten(1)
        assert flat.mean(1).abs().max() < 0.04
        assert (flat.std(1) - 1).abs().max() < 0.03
        neighbours = torch.stack([flat[0, :-60], flat[0, 1:-59], flat[0, 60:], flat[1, :-60]])
        assert (torch.corrcoef(neighbours) - torch.eye(4)).abs().max() < 0.04
        assert pixels.pixel_noise(torch.linspace(0, 0.99, 200), (1, 1, 1)).unique().numel() > 100

    def test_probabilities_are_shares(self):
        images = torch.randint(0, 256, (1500, 1, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        plain = augment(images, 12)
        for name in ("hflip", "blur", "lowres", "erase"):
            for p in (0.0, 0.3, 1.0):
                spec = KNOBS[name] | {"hflip" if name == "hflip" else f"{name}_p": p}
                touched = ((augment(images, 12, spec) - plain).abs().amax(dim=(1, 2, 3)) > 1e-6).float().mean()
                assert touched == pytest.approx(p, abs=0.04)

    def test_jitter_p_switches_the_four_together(self, smooth):
        spec = {"jitter_p": 0.5, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
        draws = epoch_draws(0, 0, 6, 1, len(COLUMNS))[:, 0]
        draws[:, COLUMNS.index("jitter")] = torch.tensor([0.1, 0.9, 0.4, 0.6, 0.49, 0.51])
        changed = (augment(smooth, 64, spec, draws=draws) - augment(smooth, 64, draws=draws)).abs().amax(dim=(1, 2, 3))
        assert (changed > 0.01).tolist() == [True, False, True, False, True, False]


class TestSpec:
    def test_reads_what_toml_gives(self):
        spec = AugmentSpec.model_validate({"crop_scale": [0.2, 1], "rotation_deg": 10, "erase_fill": "noise"})
        assert spec.crop_scale == (0.2, 1.0)
        assert AugmentSpec.model_validate(spec.model_dump()) == spec
        with pytest.raises(ValidationError):
            spec.hflip = 0.5

    @pytest.mark.parametrize(
        "bad",
        [
            {"rotate": 10.0},
            {"hflip": 1.5},
            {"hflip": "0.5"},
            {"rotation_deg": -1.0},
            {"rotation_deg": float("nan")},
            {"crop_scale": [1.0, 0.2]},
            {"crop_scale": [0.0, 1.0]},
            {"crop_scale": [0.5, 1.5]},
            {"crop_scale": [0.5]},
            {"crop_scale": ["0.5", "1"]},
            {"zoom": [0.0, 1.0]},
            {"lowres_factor": [0.5, 2.0]},
            {"erase_area": [0.5, 2.0]},
            {"erase_fill": "black"},
            {"padding": "wrap"},
            {"hue": 0.6},
        ],
    )
    def test_refuses(self, bad):
        with pytest.raises(ValidationError):
            AugmentSpec.model_validate(bad)

    def test_bad_calls_are_refused(self, smooth):
        run = BatchAugment(AugmentSpec(), 32, *RGB)
        with pytest.raises(ValueError, match="square uint8"):
            run(smooth.float(), neutral_draws(6))
        with pytest.raises(ValueError, match="square uint8"):
            run(smooth[..., :32], neutral_draws(6))
        with pytest.raises(ValueError, match="channels"):
            run(smooth[:, :2], neutral_draws(6))
        with pytest.raises(ValueError, match="draws must be"):
            run(smooth, neutral_draws(5))
        with pytest.raises(ValueError, match="mean and std"):
            BatchAugment(AugmentSpec(), 32, [0.5, 0.5], [0.5, 0.5])


def test_autocast_does_not_lower_the_precision(smooth):
    expected = augment(smooth, 48, EVERYTHING)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = augment(smooth, 48, EVERYTHING)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected)


@pytest.mark.gpu
def test_a_gpu_gives_the_same(smooth):
    draws = epoch_draws(0, 0, 6, 1, len(COLUMNS))[:, 0]
    ours = augment(smooth.cuda(), 48, EVERYTHING, draws=draws.cuda())
    assert ours.is_cuda
    torch.testing.assert_close(ours.cpu(), augment(smooth, 48, EVERYTHING, draws=draws), atol=1e-3, rtol=0)
