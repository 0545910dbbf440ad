"Samples and their cache: against brute force, at scale, with processes that compete or are killed, and behind real face extraction."
import multiprocessing
import os
import signal
import time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import deepfakenb.data.framecache as framecache
from deepfakenb.core import UserError
from deepfakenb.data.framecache import FrameLoader, fingerprints, open_cache
from deepfakenb.data.images import open_image
from deepfakenb.data.sampling import FaceSet, balanced_order, class_weights, residuals
from deepfakenb.data.scores import Scores, clips_to_videos, frames_to_clips, frames_to_videos

@pytest.fixture(autouse=True, scope='module')
def one_thread():
    "Small tensors: threads that wait for each other cost more than they bring, on a busy machine a hundred times."
    n = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def manifest(videos: dict) -> pd.DataFrame: # video -> (frame numbers, label, split)
    return pd.DataFrame([dict(video=v, frame=f, file=f'{v}/{f:04}.png', method='Deepfakes' if label else 'original', label=label, compression='c23', split=split, dataset='toy')
                         for v, (numbers, label, split) in videos.items() for f in numbers])


def face_set(folder, table) -> FaceSet:
    folder.mkdir(parents=True, exist_ok=True); table.to_parquet(folder/'faces.parquet')
    return FaceSet.read(folder, check_files=False)


def random_videos(seed, n=6):
    rng = np.random.default_rng(seed)
    return {f'v{i}': (sorted(rng.choice(60, rng.integers(1, 60), replace=False).tolist()), int(i % 2), ('train', 'test')[i % 2]) for i in range(n)}


@pytest.mark.parametrize('seed', range(4))
def test_samples_against_brute_force(tmp_path, seed):
    "Every sample is what it says: same video, exact distances; and none that could be there is missing."
    videos = random_videos(seed); s = face_set(tmp_path, manifest(videos))
    for T, stride in ((1, 1), (3, 1), (4, 2), (5, 1)):
        if stride % s.step: continue
        try: clips = s.clips(T, stride)
        except UserError: assert not any(all(f+k*stride in v[0] for k in range(T)) for v in videos.values() for f in v[0]); continue
        every = s.clips(T, stride, hop=1)
        possible = sum(all(f+k*stride in v[0] for k in range(T)) for v in videos.values() for f in v[0])
        assert len(every) == possible >= len(clips)
        for c in (clips, every):
            assert (np.diff(c.frame_numbers, axis=1) == stride).all()
            keys = s.frame.set_index('row').key
            assert all(keys[row].nunique() == 1 for row in c.rows)
        for v in videos:                                                          # no overlap
            starts = clips.starts[clips.videos == v]; assert (np.diff(starts) >= T*stride).all()
        assert clips.counts['unused'] == len(s)-len(np.unique(clips.rows))
    chunks = s.chunks(7, shortest=1); assert sorted(chunks.rows[chunks.rows >= 0].tolist()) == list(range(len(s)))        # every crop once
    assert all((np.diff(n[n >= 0]) == s.step).all() for n in chunks.frame_numbers)


def test_a_split_is_respected(tmp_path):
    s = face_set(tmp_path, manifest(random_videos(3)))
    train, test = s.split('train'), s.split('test')
    rows = [set(p.frames(5).rows.ravel().tolist()) for p in (train, test)]
    assert not rows[0] & rows[1] and set(train.frames(5).videos) == {'v0', 'v2', 'v4'}


def test_a_large_set_takes_seconds(tmp_path):
    "48,000 crops: nothing may go over all of them for each video (it did: minutes)."
    s = face_set(tmp_path, manifest({f'{"original" if v % 5 == 0 else "Deepfakes"}/{v:04}': (range(48), int(v % 5 > 0), 'train') for v in range(1000)}))
    start = time.process_time()
    s = FaceSet.read(tmp_path, check_files=False)
    clips, q, f = s.clips(16), s.residual_frames(3, per_video=4), s.frames()
    scores = Scores.of(f, np.linspace(0, 1, len(f)))
    assert len(clips) == 3000 and len(q) == 4000 and len(frames_to_videos(scores)) == 1000 and len(clips_to_videos(frames_to_clips(scores, clips))) == 1000
    assert time.process_time()-start < 10


def test_levels_do_not_mix(tmp_path):
    s = face_set(tmp_path, manifest({'a': (range(20), 0, 'test'), 'b': (range(30), 1, 'test')}))
    f, c = s.frames(), s.clips(5)
    by_frame, by_clip = Scores.of(f, np.arange(50.)), Scores.of(c, np.arange(10.))
    assert frames_to_videos(by_frame).values.tolist() == [9.5, 34.5] and clips_to_videos(by_clip).values.tolist() == [1.5, 6.5]
    for wrong in (lambda: frames_to_videos(by_clip), lambda: clips_to_videos(by_frame), lambda: Scores.cat([by_frame, by_clip]), lambda: Scores.cat([])):
        with pytest.raises(UserError): wrong()


def test_balance():
    from sklearn.utils.class_weight import compute_class_weight
    rng = np.random.default_rng(0)
    for _ in range(20):
        y = np.r_[0, 1, 2, rng.integers(0, 3, rng.integers(1, 80))]
        assert np.allclose(class_weights(y), compute_class_weight('balanced', classes=np.arange(3), y=y))
        n, epoch = int(rng.integers(3, 200)), int(rng.integers(0, 9))
        counts = np.bincount(y[balanced_order(y, n=n, seed=1, epoch=epoch)], minlength=3)
        assert counts.sum() == n and np.ptp(counts) <= 1


# ---- the cache

def crops(folder, videos=4, frames=40, size=24) -> FaceSet:
    table = manifest({f'v{i}': (range(frames), i % 2, 'train') for i in range(videos)})
    rng = np.random.default_rng(0)
    for f in table.file:
        (folder/f).parent.mkdir(parents=True, exist_ok=True); Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder/f)
    table.to_parquet(folder/'faces.parquet')
    return FaceSet.read(folder)


def _build_and_die(s, cache, at):
    def dying(f):
        if f == at: os.kill(os.getpid(), signal.SIGKILL)
        return open_image(f)
    framecache.open_image = dying
    open_cache(s, 24, folder=cache)


def _build(s, cache, out):
    decoded = []
    framecache.open_image = lambda f: (decoded.append(f), time.sleep(.002), open_image(f))[2]
    images = open_cache(s, 24, folder=cache).images
    out.put((len(decoded), int(images.numpy().sum(dtype=np.int64))))


def test_a_killed_build_goes_on(tmp_path, monkeypatch):
    s, cache = crops(tmp_path/'set'), tmp_path/'cache'
    child = multiprocessing.get_context('fork').Process(target=_build_and_die, args=(s, cache, s.files[150])); child.start(); child.join(60)
    assert child.exitcode == -signal.SIGKILL and not list(cache.glob('*.npy')) and len(list(cache.glob('*.partial'))) == 1
    decoded = []
    monkeypatch.setattr(framecache, 'open_image', lambda f: (decoded.append(f), open_image(f))[1])
    images = open_cache(s, 24, folder=cache).images
    assert len(decoded) <= 160-64 and decoded[0] >= s.files[64] and not list(cache.glob('*.partial'))
    assert all(np.array_equal(images[i].permute(1, 2, 0), open_image(s.files[i])) for i in range(0, 160, 7))


def test_two_processes_build_once(tmp_path):
    s, cache, context = crops(tmp_path/'set'), tmp_path/'cache', multiprocessing.get_context('fork')
    fingerprints(s, cache)
    out = context.Queue(); both = [context.Process(target=_build, args=(s, cache, out)) for _ in range(2)]
    for p in both: p.start()
    got = sorted(out.get(timeout=60) for _ in both)
    for p in both: p.join(60)
    assert [n for n, _ in got] == [0, 160] and got[0][1] == got[1][1]


def test_what_cannot_be_cached_is_told(tmp_path):
    s, cache = crops(tmp_path/'set', videos=1, frames=3), tmp_path/'cache'
    s.files[1].unlink()
    with pytest.raises(UserError, match='0001.png'): open_cache(s, 24, folder=cache)
    with pytest.raises(UserError, match='0001.png'): FaceSet.read(s.root)
    s = crops(tmp_path/'other', videos=1, frames=3); (tmp_path/'file').write_text('')
    with pytest.raises(UserError, match='cannot be written|cannot be read'): open_cache(s, 24, folder=tmp_path/'file')
    with pytest.raises(UserError, match='size 0'): open_cache(s, 0, folder=cache)


def test_a_damaged_memory_is_forgotten(tmp_path):
    s, cache = crops(tmp_path/'set', videos=1, frames=3), tmp_path/'cache'
    want = fingerprints(s, cache)
    [memory] = cache.glob('known-*.json')
    for text in ('{"v0', '[]', '{"v0/0000.png": 3}', ''):
        memory.write_text(text); assert fingerprints(s, cache) == want, text


def test_from_video_to_batch(tmp_path):
    "Face extraction, samples, cache and loader together, on a video of our own."
    from deepfakenb.data.codec import write_video
    from deepfakenb.data.faces.extract import extract_faces
    from deepfakenb.data.synth.people import sample_people, Faces
    from deepfakenb.data.synth.render import render
    rows = []
    for k in range(2):
        person = sample_people(1, k).replace(place=torch.tensor([[.5, .5]]), face_width=torch.tensor([.55]), pose=torch.zeros(1, 3))
        frames = render(Faces.cat([person]*8).replace(smiling=torch.linspace(0, 1, 8)), 160, noise=False).images.permute(0, 2, 3, 1).numpy()
        write_video(tmp_path/f'{k}.mp4', frames)
        rows.append(dict(id=('original/000', 'Deepfakes/000_001')[k], file=str(tmp_path/f'{k}.mp4'), method=('original', 'Deepfakes')[k], label=k, compression='c23', split='train', source='', dataset='toy'))
    extract_faces(pd.DataFrame(rows), tmp_path/'faces', size=64)
    s = FaceSet.read(tmp_path/'faces')
    assert set(s.frame.key) == {'original/000', 'Deepfakes/000_001'} and len(s) >= 14
    clips = s.clips(4); cache = open_cache(s, 48, folder=tmp_path/'cache')
    x, y = FrameLoader(cache, clips, bs=len(clips), augment=True, shuffle=True, device='cpu').batch(0, 0)
    assert x.shape == (len(clips), 4, 3, 48, 48) and sorted(y.tolist()) == sorted(clips.labels.tolist()) and set(y.tolist()) == {0, 1}
    r = residuals(x); assert r.shape == (len(clips), 3, 3, 48, 48) and 0 < r.abs().mean() < .5
