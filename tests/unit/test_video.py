"""Video files: in and out, interrupted and resumed, and what is refused."""

import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from test_sequence import FAST, moving_frames
from tiny import tiny_colorizer, tiny_ctrlcolor, tiny_lcad, tiny_picture

import colorlab
from colorlab import cli
from colorlab.colorizer import Colorizer
from colorlab.errors import ColorlabError, ImageError, MissingExtraError, RangeError, ShapeError, StateError
from colorlab.video.files import open_video, write_video
from colorlab.video.journal import VideoJournal

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def colorizer() -> Colorizer:
    """A tiny CtrlColor that takes one step."""
    return Colorizer(tiny_ctrlcolor(), settings=FAST)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lossless video of six gray frames."""
    path = tmp_path_factory.mktemp("videos") / "in.mkv"
    write_video(path, as_colors(moving_frames(6)), 12.5)
    return path


def as_colors(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Gray frames as a file holds them, (H, W, 3)."""
    return [np.repeat(frame[..., None], 3, axis=2) for frame in frames]


def read(path: Path) -> list[np.ndarray]:
    """All frames of a file, (H, W, 3) uint8."""
    with open_video(path) as video:
        return [frame[..., :3].copy() for frame in video.frames]


@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_files_keep_size_number_and_rate(size: tuple[int, int], tmp_path: Path) -> None:
    y, x = np.mgrid[: size[0], : size[1]]
    frames = [np.stack([x * 4, y * 5, 0 * x + index * 20], axis=-1).astype(np.uint8) for index in range(5)]
    for name, worst in (("a.mp4", 30), ("b.mov", 30), ("c.mkv", 0)):
        write_video(tmp_path / name, iter(frames), 29.97)
        found = read(tmp_path / name)
        assert [frame.shape for frame in found] == [(*size, 3)] * 5
        assert np.abs(np.array(found).astype(int) - np.array(frames)).mean() <= worst
        with open_video(tmp_path / name) as video:
            assert video.fps == pytest.approx(29.97, abs=0.01)
            assert video.num_frames in (5, None)


def test_a_video_is_its_sequence(colorizer: Colorizer, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mkv"
    done = colorlab.colorize_video(str(source), str(target), colorizer, prompt="a car", seed=3, progress=False)
    wanted = list(
        colorlab.Sequence(
            colorizer, as_colors(moving_frames(6)), colorlab.Conditioning(prompt="a car"), FAST.replace(seed=3)
        )
    )
    for image, frame in zip(read(target), wanted, strict=True):
        np.testing.assert_array_equal(image, frame.image)
    assert done.path == target
    assert done.num_frames == 6
    assert done.shots == (0,)
    assert done.known == tuple(frame.known for frame in wanted)
    assert os.listdir(tmp_path) == ["out.mkv"]
    with open_video(target) as video:
        assert video.fps == 12.5


def test_an_interrupted_video_goes_on(
    colorizer: Colorizer, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, target = tmp_path / "whole.mkv", tmp_path / "out.mkv"
    all_at_once = colorlab.colorize_video(source, whole, colorizer, progress=False)
    write, colored = VideoJournal.write, []
    stop_at = iter(range(10))

    def stop(journal: VideoJournal, index: int, *rest: object) -> None:
        if next(stop_at) == 3:
            raise KeyboardInterrupt
        colored.append(index)
        write(journal, index, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(VideoJournal, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        colorlab.colorize_video(source, target, colorizer, progress=False)
    assert not target.exists()
    assert colored == [0, 1, 2]
    assert colorlab.colorize_video(source, target, colorizer, progress=False).known == all_at_once.known
    assert colored == [0, 1, 2, 3, 4, 5]
    # The pixels, not the bytes: mkv files have random names inside, and lossy encoders differ from run to run.
    np.testing.assert_array_equal(read(target), read(whole))


@pytest.mark.timeout(900)
def test_a_killed_command_goes_on(source: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    Colorizer(tiny_ctrlcolor(), settings=FAST).save_pretrained(model)
    whole, target = tmp_path / "whole.mkv", tmp_path / "out.mkv"
    assert cli.main(["video", str(source), "-o", str(whole), "--model", str(model), "--seed", "4"]) == 0
    words = [sys.executable, "-m", "colorlab", "video", str(source), "-o", str(target), "-m", str(model), "--seed", "4"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 600
        while not list(tmp_path.glob("out.mkv.frames/*1.png")) and process.poll() is None:
            assert time.monotonic() < give_up
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert cli.main(words[3:]) == 0
    # The pixels, not the bytes: mkv files have random names inside, and lossy encoders differ from run to run.
    np.testing.assert_array_equal(read(target), read(whole))
    assert not (tmp_path / "out.mkv.frames").exists()


def test_finished_frames_of_something_else_are_refused(colorizer: Colorizer, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    folder = tmp_path / "out.mp4.frames"
    VideoJournal(folder, {"source": "another"})
    with pytest.raises(StateError, match=r"out\.mp4\.frames holds finished frames of another video"):
        colorlab.colorize_video(source, target, colorizer, progress=False)
    (folder / "plan.json").rename(folder / "holiday.txt")
    with pytest.raises(StateError, match="in the way"):
        colorlab.colorize_video(source, target, colorizer, progress=False)


def test_a_damaged_finished_frame(tmp_path: Path) -> None:
    journal = VideoJournal(tmp_path / "frames", {})
    (tmp_path / "frames" / "00000000.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"00000000\.png is damaged"):
        journal.read(0)


def test_only_its_own_files_are_removed(tmp_path: Path) -> None:
    journal = VideoJournal(tmp_path / "frames", {})
    (tmp_path / "frames" / "mine.txt").write_text("kept")
    journal.remove()
    assert os.listdir(tmp_path / "frames") == ["mine.txt"]


def write_raw(path: Path, sizes: list[tuple[int, int]], *, pixels: str = "yuv420p", codec: str = "h264") -> None:
    """Write a raw stream whose frames have these (height, width); one encoder for each."""
    with path.open("wb") as file:
        for index, (height, width) in enumerate(sizes):
            context = av.CodecContext.create(codec, "w")
            context.width, context.height, context.pix_fmt = width, height, pixels
            context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
            picture = np.full((height, width, 3), 60 + 30 * index, np.uint8)
            for frame in (av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels), None):
                file.write(b"".join(bytes(packet) for packet in context.encode(frame)))


def test_frames_of_several_sizes(colorizer: Colorizer, tmp_path: Path) -> None:
    write_raw(tmp_path / "in.h264", [(32, 32), (32, 32), (64, 48)])
    with pytest.raises(ShapeError, match="Frame 2 is 64 x 48 pixels, but those before it are 32 x 32"):
        colorlab.colorize_video(tmp_path / "in.h264", tmp_path / "out.mp4", colorizer, progress=False)


def test_gray_and_transparent_videos(colorizer: Colorizer, tmp_path: Path) -> None:
    gray = tiny_picture(32, 32)
    for name, codec, pixels in (("gray.mkv", "ffv1", "gray"), ("clear.mov", "png", "rgba")):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 32, 32, pixels
            picture = gray if pixels == "gray" else np.dstack([gray] * 3 + [np.full_like(gray, 255)])
            if pixels == "rgba":
                picture[:8, :8, 3] = 0
            frame = av.VideoFrame.from_ndarray(picture, format=pixels)
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
        colorlab.colorize_video(tmp_path / name, tmp_path / "out.mkv", colorizer, progress=False)
        wanted = gray.copy()
        if pixels == "rgba":
            wanted[:8, :8] = 255
        (alone,) = colorlab.Sequence(colorizer, [wanted])
        assert np.abs(read(tmp_path / "out.mkv")[0].astype(int) - alone.image).max() <= 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.mp4", None, "missing.mp4' does not exist"),
        ("empty.mp4", b"", "empty.mp4' is no video"),
        ("text.mp4", b"no video at all" * 50, "text.mp4' is no video"),
        ("folder", "folder", "folder' is a folder"),
        ("cut.mp4", "cut", "cut.mp4' is no video"),
        ("sound.wav", "sound", "sound.wav' is no video"),
        ("zero.avi", "zero", "zero.avi' holds no frame"),
    ],
)
def test_videos_that_cannot_be_read(
    name: str, content: bytes | str | None, message: str, colorizer: Colorizer, tmp_path: Path
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    elif content == "cut":
        write_video(tmp_path / "whole.mp4", [np.zeros((32, 32, 3), np.uint8)] * 5, 25)
        path.write_bytes((tmp_path / "whole.mp4").read_bytes()[:-600])
    elif content == "sound":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
    elif content == "zero":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            stream.codec_context.open()
            container.start_encoding()
    with pytest.raises(ImageError, match=message):
        colorlab.colorize_video(path, tmp_path / "out.mp4", colorizer, progress=False)
    assert not (tmp_path / "out.mp4").exists()


def test_targets_that_cannot_be(colorizer: Colorizer, source: Path, tmp_path: Path) -> None:
    for target, message in (
        (source, "input and output at once"),
        (tmp_path / "out.avi", r"ends in '\.avi', but one of \.mp4, \.mov, \.mkv is expected"),
        (tmp_path / "none" / "out.mp4", "There is no folder"),
    ):
        with pytest.raises(RangeError, match=message):
            colorlab.colorize_video(source, target, colorizer, progress=False)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(RangeError, match="is a folder"):
        colorlab.colorize_video(source, tmp_path / "folder.mp4", colorizer, progress=False)


def test_without_the_extra(colorizer: Colorizer, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'colorlab\[video\]'"):
        colorlab.colorize_video(source, tmp_path / "out.mp4", colorizer, progress=False)


def test_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ColorlabError, match=r"out\.mp4 cannot be written \(no space left on device\)"):
        write_video(tmp_path / "out.mp4", [np.zeros((32, 32, 3), np.uint8)], 25)
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(900)
def test_memory_does_not_grow_with_the_length(colorizer: Colorizer, tmp_path: Path) -> None:
    check_memory(colorizer, tmp_path, 200)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_does_not_grow_with_ten_thousand_frames(colorizer: Colorizer, tmp_path: Path) -> None:
    check_memory(colorizer, tmp_path, 10_000)


def check_memory(colorizer: Colorizer, folder: Path, number: int) -> None:
    """Color a long video and compare the memory of the process at a quarter and at the end."""
    frame = moving_frames(1)[0]
    write_video(
        folder / "in.mkv", (np.repeat(np.roll(frame, i, axis=1)[..., None], 3, axis=2) for i in range(number)), 25
    )
    held: list[int] = []
    write = VideoJournal.write

    def watch(journal: VideoJournal, index: int, *rest: object) -> None:
        held.append(resident_bytes())
        write(journal, index, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VideoJournal, "write", watch)
        done = colorlab.colorize_video(folder / "in.mkv", folder / "out.mp4", colorizer, progress=False)
    assert done.num_frames == number == len(held)
    assert held[-1] - held[number // 4] < 24 * 2**20


def resident_bytes() -> int:
    """Memory that this process has in use now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_model_that_takes_no_hints(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    tiny_colorizer(tiny_lcad()).save_pretrained(model)
    words = ["video", str(source), "-o", str(tmp_path / "out.mp4"), "-m", str(model), "--steps", "1"]
    assert cli.main(words) == 2
    assert "takes no colors as hints" in capsys.readouterr().err
    assert cli.main([*words, "--no-propagation"]) == 0
    assert "6 frames, 6 colored anew" in capsys.readouterr().out


@pytest.mark.parametrize(("finished", "message"), [(0, "before the first frame"), (2, "Interrupted after 2 frames")])
def test_an_interrupted_command_says_what_is_kept(
    finished: int,
    message: str,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Colorizer(tiny_ctrlcolor(), settings=FAST).save_pretrained(tmp_path / "model")
    write = VideoJournal.write

    def stop(journal: VideoJournal, index: int, *rest: object) -> None:
        if index == finished:
            raise KeyboardInterrupt
        write(journal, index, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(VideoJournal, "write", stop)
    assert cli.main(["video", str(source), "-o", str(tmp_path / "out.mp4"), "-m", str(tmp_path / "model")]) == 1
    assert message in capsys.readouterr().err
    assert len(list((tmp_path / "out.mp4.frames").glob("*.png"))) == finished
    assert not (tmp_path / "out.mp4").exists()


def test_the_command_line_says_what_is_wrong(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "strokes.json").write_text("nonsense")
    for words, code, message in (
        (["missing.mp4", "-o", str(tmp_path / "out.mp4")], 1, "missing.mp4"),
        ([str(source), "-o", str(tmp_path / "out.avi")], 2, ".avi"),
        ([str(source), "-o", str(source)], 2, "input and output at once"),
        ([str(source), "-o", str(tmp_path / "out.mp4"), "--strokes", str(tmp_path / "strokes.json")], 2, "JSON"),
        ([str(source), "-o", str(tmp_path / "out.mp4"), "--steps", "0"], 2, "--steps"),
    ):
        assert cli.main(["video", *words]) == code
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("colorlab: ")
        assert error.count("\n") == 1
