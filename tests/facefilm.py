"Short films of rendered people whose boxes are known, for the tests of the codec and of the face extraction."
import numpy as np


def ramp(n=12, h=48, w=96):
    "A red square on a grey ramp; its place tells the frame's number: (n, h, w, 3) uint8."
    x = np.broadcast_to(np.linspace(40, 200, w).astype(np.uint8)[None, None, :, None], (n, h, w, 3)).copy()
    for i in range(n): x[i, 8:24, 4*i:4*i+12] = (220, 30, 30)
    return x


def place(image):
    "The number that the red square tells."
    return round(float(np.flatnonzero((image[16, :, 0].astype(int)-image[16, :, 1]) > 80).mean()-5.5)/4)


def walk(n, seed=2, size=(240, 320), side=210, pan=.45, fps=12):
    "A person who walks through a room: (n, H, W, 3) uint8, true boxes, true landmarks."
    import cv2
    from deepfakenb.data.synth.motion import animate, cast, film
    (h, w), f = size, film(animate(cast(1, seed), n, seed, fps=fps, liveliness=2), 144)
    move = np.stack([(w-side)*(.5+pan*np.sin(np.arange(n)/20+seed)), np.full(n, (h-side)*.6)], 1)
    out = [cv2.warpAffine(i, np.float32([[side/144, 0, x], [0, side/144, y]]), (w, h), borderMode=cv2.BORDER_REPLICATE)
           for i, (x, y) in zip(f.images.permute(0, 2, 3, 1).numpy(), move)]
    return np.stack(out), f.boxes.numpy()*side/144+np.tile(move, 2), f.landmarks.numpy()*side/144+move[:, None]


def song(path):
    "An MP4 with sound and no picture."
    import av
    with av.open(str(path), 'w') as c:
        s = c.add_stream('aac', rate=16000, layout='mono')
        for _ in range(6):
            f = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono'); f.sample_rate = 16000
            c.mux(s.encode(f))
        c.mux(s.encode(None))
    return path


def write_other(path, images, *, codec='libx264', pix_fmt='yuv420p', stamps=None, **options):
    "Any container, codec and time stamps (ms)."
    from fractions import Fraction
    import av
    with av.open(str(path), 'w') as c:
        s = c.add_stream(codec, rate=1000 if stamps is not None else 25, options={k: str(v) for k, v in options.items()})
        s.height, s.width, s.pix_fmt = *images.shape[1:3], pix_fmt
        if stamps is not None: s.codec_context.time_base = Fraction(1, 1000)
        for k, image in enumerate(images):
            f = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format='rgb24')
            if stamps is not None: f.pts, f.time_base = int(stamps[k]), Fraction(1, 1000)
            c.mux(s.encode(f))
        c.mux(s.encode(None))
    return path
