"SeqFakeFormer against the published model's golden numbers, and against a plain reference written from the equations (no module of the library in it)."
import math
import pytest, torch
from torch.nn import functional as F
from deepfakenb.models.seqfakeformer import SeqFakeFormer, load_published

torch.set_num_threads(1)

# ---- the reference: paper 1, Eq. 1-6, and the facts of the published implementation, one image and one head at a time, from a state dict

class Reference:
    "The published network, spelled out. `w`: published names -> tensors; `lam`: of Eq. 3."
    def __init__(self, w, lam=4.): self.w, self.lam = w, lam
    def linear(self, name, x): return x@self.w[name+'.weight'].T+self.w[name+'.bias']
    def norm(self, name, x, eps=1e-5):
        return (x-x.mean(-1, keepdim=True))/(x.var(-1, unbiased=False, keepdim=True)+eps).sqrt()*self.w[name+'.weight']+self.w[name+'.bias']
    def heads(self): return len(self.w['transformer.decoder.layers.0.point2.bias'])//2
    def attention(self, name, q, k, v, log_m=None, hidden=None):
        W, b, n = self.w[name+'.in_proj_weight'].chunk(3), self.w[name+'.in_proj_bias'].chunk(3), self.heads()
        q, k, v = (x@Wi.T+bi for x, Wi, bi in zip((q, k, v), W, b))
        d, out = q.shape[-1]//n, []
        for i in range(n):
            s = slice(i*d, (i+1)*d)
            logits = q[:, s]@k[:, s].T/math.sqrt(d)
            if log_m is not None: logits = logits+log_m[i]
            if hidden is not None: logits = logits.masked_fill(hidden, -math.inf)
            out.append(logits.softmax(-1)@v[:, s])
        return self.linear(name+'.out_proj', torch.cat(out, -1))
    def positions(self, H, W, width):
        pos, half = torch.zeros(H*W, width), width//2
        for y in range(H):
            for x in range(W):
                for c in range(half):
                    t = 10000**(2*(c//2)/half)
                    for first, place, n in ((0, y, H), (half, x, W)):
                        angle = (place+1)/(n+1e-6)*2*math.pi/t
                        pos[y*W+x, first+c] = math.sin(angle) if c % 2 == 0 else math.cos(angle)
        return pos
    def depth(self, part): return len({k.split('.')[3] for k in self.w if k.startswith(f'transformer.{part}.layers.')})
    def ffn(self, p, x): return self.linear(p+'linear2', F.relu(self.linear(p+'linear1', x)))
    def encode(self, feature): # (C, H, W) -> (HW, width)
        _, H, W = feature.shape
        x = self.linear_1x1(feature)
        pos = self.positions(H, W, x.shape[-1])
        for i in range(self.depth('encoder')):
            p = f'transformer.encoder.layers.{i}.'
            h = self.norm(p+'norm1', x)
            x = x+self.attention(p+'self_attn', h+pos, h+pos, h)
            x = x+self.ffn(p, self.norm(p+'norm2', x))
        return self.norm('transformer.encoder.norm', x), pos
    def linear_1x1(self, feature): return feature.flatten(1).T@self.w['input_proj.weight'].flatten(1).T+self.w['input_proj.bias']
    def log_map(self, p, tokens, centre, H, W):
        n, out = self.heads(), torch.zeros(self.heads(), len(tokens), H*W)
        offset, r = self.linear(p+'point2', tokens), self.linear(p+'point3', tokens)
        for i in range(n):
            for t in range(len(tokens)):
                cx, cy = centre[t]+offset[t, 2*i:2*i+2]
                rx, ry = r[t, 2*i:2*i+2]
                for y in range(H):
                    for x in range(W): out[i, t, y*W+x] = -((cx-x)**2*rx**2+(cy-y)**2*ry**2)/self.lam
        return out
    def logits(self, feature, tokens, hide=()): # hide: token ids that are no keys
        _, H, W = feature.shape
        memory, mpos = self.encode(feature)
        pos = self.w['transformer.embeddings.position_embeddings.weight'][:len(tokens)]
        x = self.norm('transformer.embeddings.LayerNorm', self.w['transformer.embeddings.word_embeddings.weight'][tokens]+pos, eps=1e-12)
        hidden = torch.ones(len(tokens), len(tokens)).triu(1).bool() | torch.tensor([t in hide for t in tokens.tolist()])
        centre = None
        for i in range(self.depth('decoder')):
            p = f'transformer.decoder.layers.{i}.'
            content = self.norm(p+'norm4', x+pos)
            if centre is None:
                h = F.relu(self.linear(p+'point1.layers.1', F.relu(self.linear(p+'point1.layers.0', content))))
                centre = torch.sigmoid(self.linear(p+'point1.layers.2', h))*torch.tensor([W, H])
            log_m = self.log_map(p, content, centre, H, W)
            h = self.norm(p+'norm1', x)
            x = x+self.attention(p+'self_attn', h+pos, h+pos, h, hidden=hidden)
            x = x+self.attention(p+'multihead_attn', self.norm(p+'norm2', x)+pos, memory+mpos, memory, log_m=log_m)
            x = x+self.ffn(p, self.norm(p+'norm3', x))
        x = self.norm('transformer.decoder.norm', x)
        for i in range(2): x = F.relu(self.linear(f'mlp.layers.{i}', x))
        return self.linear('mlp.layers.2', x)
    def greedy(self, feature, end, steps): # everything again at every step, nothing that was said is hidden
        said = [0]
        while len(said) <= steps:
            said.append(int(self.logits(feature, torch.tensor(said))[-1].argmax()))
            if said[-1] == end: said.pop(); break
        return (said[1:]+[0]*steps)[:steps]

def random_model(seed, **kw):
    torch.manual_seed(seed)
    m = SeqFakeFormer(backbone=None, channels=6, **kw)
    for p in m.parameters(): torch.nn.init.normal_(p, std=2.2/math.sqrt(p.shape[-1]) if p.dim() > 1 else .3)
    return m.state_dict()

SIZES = [dict(width=16, heads=4, feed_forward=12, head_width=20), dict(width=24, heads=2, feed_forward=8, head_width=12, encoder_layers=1, decoder_layers=3),
         dict(width=16, heads=1, feed_forward=8, head_width=12, decoder_layers=1, tokens=10, positions=5)]

@pytest.mark.parametrize('kw', SIZES, ids=('four heads', 'three layers', 'another vocabulary'))
def test_reference_from_the_equations(kw):
    state = random_model(4, **kw)
    model, ref = load_published(state), Reference(state)
    features = torch.randn(3, 6, 3, 4, generator=torch.Generator().manual_seed(0))*2
    tokens = torch.randint(0, model.pad+1, (3, model.steps+1), generator=torch.Generator().manual_seed(1)); tokens[:, 0] = 0; tokens[1, 2:] = model.pad
    features.requires_grad_()
    got, expected = model.decode_logits(features, tokens), torch.stack([ref.logits(f, t, hide=(model.pad,)) for f, t in zip(features, tokens)])
    assert (got-expected).abs().max() < 1e-4
    g, e = (torch.autograd.grad(x.square().sum(), features)[0] for x in (got, expected))
    assert (g-e).abs().max() <= 1e-4*e.abs().max()

@pytest.mark.parametrize('seed', (9, 13), ids=('says PAD', 'stops early'))
def test_reference_greedy(seed):
    state = random_model(seed, **SIZES[0])
    model, ref = load_published(state), Reference(state)
    features = torch.randn(12, 6, 2, 3, generator=torch.Generator().manual_seed(0))*3
    got = model.greedy(features).tolist()
    with torch.no_grad(): assert got == [ref.greedy(f, model.end, model.steps) for f in features]
    assert len(set(map(tuple, got))) > 5 and any(7 in g if seed == 9 else 0 in g for g in got)

# ---- the golden numbers

@pytest.fixture(scope='module')
def golden(shared):
    load_file = pytest.importorskip('safetensors.torch').load_file
    folder = shared/'parity'
    if not (folder/'seqfakeformer_head_weights.safetensors').is_file(): pytest.skip('no golden numbers beside the project')
    return load_published(load_file(folder/'seqfakeformer_head_weights.safetensors')), load_file(folder/'seqfakeformer_head_io.safetensors')

def test_golden_logits_loss_gradient(golden):
    model, io = golden
    features = io['features'].clone().requires_grad_()
    logits = model.decode_logits(features, io['tokens_in'])
    assert (logits-io['logits']).abs().max() <= 1e-4
    loss = model.loss(logits, io['tokens_out'])
    assert (loss-io['loss']).abs().max() <= 1e-5
    loss.backward()
    assert (features.grad-io['grad_features']).abs().max() <= 1e-4*io['grad_features'].abs().max()

def test_golden_positions(golden):
    model, io = golden
    pos = model.sine(tuple(io['features'].shape[-2:]), io['features'])
    assert (pos.T.reshape(io['pos'][0].shape)-io['pos']).abs().max() <= 1e-5

def test_golden_greedy(golden):
    model, io = golden
    assert torch.equal(model.greedy(io['features']), io['greedy']) and (io['greedy'] == 7).any()
    one_by_one = torch.cat([model.greedy(f[None]) for f in io['features']])
    assert torch.equal(one_by_one, io['greedy'])

def test_golden_numbers_would_notice(golden):
    "A wrong reading of each settled fact moves the numbers beyond the tolerance."
    model, io = golden
    def off(change):
        state = change({k: v.clone() for k, v in model.state_dict().items()})
        return (load_published(state).decode_logits(io['features'], io['tokens_in'])-io['logits']).abs().max()
    def swap_xy(s):
        for k in [k for k in s if 'point2' in k or 'point3' in k]: s[k] = s[k].unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
        return s
    def own_centre(s):
        for k in [k for k in s if 'layers.0.point1' in k and 'decoder' in k]: s[k] = s[k]*0
        return s
    assert off(lambda s: s) <= 1e-4 and off(swap_xy) > 1e-3 and off(own_centre) > 1e-3
    for kw in (dict(r2='divided'), dict(sqrt_d='multiplied'), dict(lam=2.)):
        options = {k: v for k, v in model.config.items() if k not in ('name', 'weights', 'frozen')} | kw
        other = SeqFakeFormer(**options).eval()
        other.load_state_dict(model.state_dict())
        assert (other.decode_logits(io['features'], io['tokens_in'])-io['logits']).abs().max() > 1e-3, kw
