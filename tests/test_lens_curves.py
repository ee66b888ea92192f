"Rich curves from photograph to lens numbers: search, network, likelihood, loop."
import numpy as np, pytest, torch
from distortkit.core.data import embedded_photos
from distortkit.lens.curves import CURVE_SEARCHES, CURVE_FIELDS, RICH_FIELDS, curve_tokens, find_curves
from distortkit.lens.correct import Corrector
from distortkit.lens.evidence import RichEvidence
from distortkit.lens.hybrid import HybridModel, ModelSettings, load_model
from distortkit.lens.losses.total import LossSettings, lens_doubt
from distortkit.lens.recipes import load_recipe
from distortkit.core.checkpoint import CheckpointError, save_checkpoint

PHOTO = embedded_photos()['motorcycle']()

def batch(rgb=PHOTO, search='rich'): return [torch.from_numpy(v)[None] for v in find_curves(rgb, search)]

def test_rich_tokens_begin_with_the_plain_fields():
    assert RICH_FIELDS[:len(CURVE_FIELDS)]==CURVE_FIELDS
    plain,_ = curve_tokens(PHOTO); rich,mask = find_curves(PHOTO, 'rich'); s = CURVE_SEARCHES['rich']
    assert rich.shape==(s.most,len(s.fields)) and np.isfinite(rich).all() and not rich[~mask].any()
    longest = plain[plain[:,32].argsort()[-20:]]
    assert {r.tobytes() for r in longest}<={r.tobytes() for r in np.ascontiguousarray(rich[:,:36])}

def test_the_same_photograph_gives_the_same_tokens_wherever_it_lies_in_memory():
    room = np.zeros(PHOTO.size+3, np.uint8)
    for shift in (1,3):
        moved = room[shift:shift+PHOTO.size].reshape(PHOTO.shape); moved[:] = PHOTO
        assert all((a==b).all() for a,b in zip(find_curves(PHOTO, 'rich'), find_curves(moved, 'rich')))

def test_order_and_company_do_not_matter():
    torch.manual_seed(0); net = RichEvidence().eval(); t,m = batch()
    for layer in (net.trust, net.width, net.last): torch.nn.init.normal_(layer.weight, std=.05)
    with torch.no_grad():
        one = net(t, m); p = torch.randperm(t.shape[1]); other = net(t[:,p], m[:,p])
        padded = net(torch.cat([t, 0*t], 1), torch.cat([m, m&False], 1)); many = net(t.repeat(3,1,1), m.repeat(3,1))
    for again in (other, padded): torch.testing.assert_close(again.params, one.params, atol=1e-4, rtol=1e-2)
    torch.testing.assert_close(many.params[1], one.params[0], atol=1e-4, rtol=1e-2)
    assert torch.linalg.eigvalsh(one.covariance[0,:7,:7].double()).min()>0

def test_nothing_seen_is_no_lens_and_the_doubt_of_the_prior():
    net = RichEvidence().eval(); t,m = batch(np.zeros((60,90,3), np.uint8))
    with torch.no_grad(): e = net(t, m)
    assert not m.any() and e.params[0,:7].abs().max()<1e-6 and e.params[0,7]==1 and e.covariance.isfinite().all()
    assert e.covariance[0,0,0]>1e-4

def test_doubt_rewards_a_covariance_as_wide_as_the_errors():
    torch.manual_seed(1); off = torch.randn(2000,8)*torch.tensor([.02,.01,.004,2e-4,2e-4,0,0,0])
    cost = {f: lens_doubt(off, f*torch.diag(off.var(0)).expand(2000,8,8), 0*off, (80,120)).item() for f in (.1,1,10)}
    assert min(cost, key=cost.get)==1

def test_a_checkpoint_of_rich_curves_corrects_and_plain_curves_are_refused(tmp_path):
    torch.manual_seed(0); net = HybridModel(ModelSettings(backbone_name='curves', curve_search='rich', curve_hidden_dim=8))
    f = tmp_path/'best.pt'; save_checkpoint(f, dict(model=net.state_dict(), extra=dict(model_settings=net.settings.model_dump(), picture_side=96)))
    again = load_model(f); t,m = batch(); torch.testing.assert_close(again(None, t, m)['params'], net.eval()(None, t, m)['params'])
    assert Corrector.from_pretrained(f, 'cpu').estimate(PHOTO).curves==int(m.sum())
    with pytest.raises(ValueError, match='rich'): again(None, *batch(search='plain'))

def test_the_shipped_recipe_pays_for_doubt():
    r = load_recipe('stage1', 'curves_rich', 'default_stage1', 'default_stage1')
    assert r.model.curve_search=='rich' and r.loss.doubt_weight>0 and LossSettings().doubt_weight==0
