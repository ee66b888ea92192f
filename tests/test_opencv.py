"The lens grid against OpenCV: two programs, one distortion."
import cv2, numpy as np, pytest, torch
from distortkit.geometry.coords import norm_to_pixel
from distortkit.lens.distort import build_parametric_grid
from distortkit.lens.params import BOUNDS, NEUTRAL, PARAM_NAMES

H,W = 427,640

def draw(seed, strength):
    "Numbers of one lens, uniform within `strength` of the bounds around neutral."
    rng = np.random.default_rng(seed)
    bounds,neutral = (v if isinstance(v, dict) else dict(zip(PARAM_NAMES, v)) for v in (BOUNDS, NEUTRAL))
    return [neutral[n]+strength*(rng.uniform(*bounds[n])-neutral[n]) for n in PARAM_NAMES]

def opencv_map(k1, k2, k3, p1, p2, dcx, dcy, s):
    "Where each output pixel looks, px (H,W,2); the lens sits dcx,dcy off the centre, s zooms the output camera."
    unit = (max(W,H)-1)/2  # half the long side
    lens = np.array([[unit,0,(W-1)/2+dcx*unit], [0,unit,(H-1)/2+dcy*unit], [0,0,1]], np.float64)
    out = lens.copy(); out[0,0] *= s; out[1,1] *= s
    return np.stack(cv2.initUndistortRectifyMap(lens, np.array([k1,k2,p1,p2,k3], np.float64), None, out, (W,H), cv2.CV_32FC1), -1)

def ours(params):
    grid = build_parametric_grid(torch.tensor([params], dtype=torch.float32), H, W)
    assert grid.shape==(1,H,W,2)
    return torch.stack([norm_to_pixel(grid[...,0], W), norm_to_pixel(grid[...,1], H)], -1)[0].numpy()

@pytest.mark.parametrize('seed', range(12))
def test_same_source_points(seed):
    params = draw(seed, [.2,.5,1.][seed%3])
    assert np.abs(ours(params)-opencv_map(*params)).max()<=1e-3

@pytest.mark.parametrize('at', range(8))
def test_each_number_alone(at):
    params = [0.]*7+[1.]; params[at] += .02
    there = opencv_map(*params)
    assert np.abs(ours(params)-there).max()<=1e-3
    assert np.abs(there-opencv_map(*[0.]*7, 1.)).max()>.5 or at>=5  # the number does something; dcx, dcy alone do nothing
