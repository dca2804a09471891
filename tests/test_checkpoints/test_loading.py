"""Checkpoints are loaded as data: hostile files are refused before anything ran, genuine ones load."""

import io
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader, Runner, get_external_models, get_mmcls_models
from mmengine.runner import load_checkpoint as mmengine_load

from mmext.checkpoints import CheckpointError, load_checkpoint, loading, register_loaders, types
from mmext.cli import common

BUFFER = [0.5, 0.25, 0.125]


@pytest.fixture(params=[True, False], ids=['weights_only', 'unpickler'])
def weights_only(request, monkeypatch):
    """Both ways to load: torch's own, and the unpickler for torch before 2.7."""
    if request.param and not loading.HAS_SAFE_LOADING:
        pytest.skip('needs torch 2.7')
    monkeypatch.setattr(loading, 'HAS_SAFE_LOADING', request.param)


@pytest.fixture
def canary(tmp_path):
    """A file that hostile code would make; checked at the end of the test."""
    path = tmp_path / 'canary'
    yield path
    assert not path.exists(), 'the file ran code'


@pytest.fixture
def loaders():
    """mmengine's loaders as they are, to be replaced in the test."""
    before = CheckpointLoader._schemes
    CheckpointLoader._schemes = before.copy()
    yield
    CheckpointLoader._schemes = before


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments

    def __call__(self):
        """For pickle, which lets only what can be called be called."""


class Getattr(Call):
    """Bare `getattr` is on mmengine's list, and climbs from any class to `os.system`."""

    def __init__(self, canary):
        globals_of = Call(getattr, HistoryBuffer.update, '__globals__')
        builtins = Call(getattr, globals_of, 'get')
        super().__init__(getattr, builtins, '__call__')


def save(content, path, **options):
    torch.save(content, path, **options)
    return path


def checkpoint(**parts):
    return dict(meta=dict(epoch=1, iter=4), state_dict=OrderedDict(weight=torch.arange(6.0).reshape(2, 3)), **parts)


def rewrite(source, target, change, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, 'w', compression) as new:
        for record in old.infolist():
            new.writestr(record.filename, change(record.filename, old.read(record.filename)))
    return target


def nested(canary):
    """torch's own way to pickle a storage outside of a checkpoint: a pickle within a pickle."""
    inner = io.BytesIO()
    torch.save(Call(os.mkdir, str(canary)), inner)
    return Call(torch.storage._load_from_bytes, inner.getvalue())


def dtype_with_pointers():
    """An array of numbers that says that they are pointers to objects."""
    dtype = Call(np.dtype, 'O8')
    return Call(np.float64(0).__reduce__()[0], dtype, b'12345678')


HOSTILE = {
    '__reduce__': (lambda canary: Call(os.mkdir, str(canary)), 'mkdir'),
    'builtin': (lambda canary: Call(eval, f'__import__("os").mkdir({str(canary)!r})'), 'eval'),
    'an import': (lambda canary: Call(__import__, 'antigravity'), '__import__'),
    'bare getattr': (Getattr, 'getattr'),
    'getattr of a HistoryBuffer': (lambda canary: Call(getattr, HistoryBuffer, '__init__'), 'getattr'),
    'a call of a statistic': (lambda canary: Call(Call(getattr, HistoryBuffer, 'mean'), 'text'), 'HistoryBuffer'),
    'a storage as bytes': (nested, '_load_from_bytes'),
    'an array of pointers': (lambda canary: dtype_with_pointers(), 'numpy.dtype'),
    'a path': (lambda canary: canary, 'Path'),
    'a module': (lambda canary: torch.nn.Linear(2, 2), 'Linear'),
    'a partial': (lambda canary: Call(__import__('functools').partial, os.mkdir, str(canary)), 'partial'),
}


@pytest.mark.usefixtures('weights_only')
class TestHostile:
    @pytest.mark.parametrize('old_format', [False, True], ids=['zip', 'old format'])
    @pytest.mark.parametrize('name', HOSTILE)
    def test_names_the_type_and_the_remedy(self, name, old_format, canary, tmp_path):
        make, kind = HOSTILE[name]
        content = checkpoint(message_hub=dict(log_scalars={'train/loss': make(canary)}))
        path = save(content, tmp_path / 'hostile.pth', _use_new_zipfile_serialization=not old_format)
        with pytest.raises(CheckpointError, match=kind) as error:
            load_checkpoint(path)
        assert str(path) in str(error.value) and '--trust-checkpoint' in str(error.value)

    def test_the_hostile_files_work(self, canary, tmp_path):
        """What proves that the canary would sing."""
        path = save(checkpoint(optimizer=Call(os.mkdir, str(canary))), tmp_path / 'hostile.pth')
        load_checkpoint(path, trust=True)
        assert canary.is_dir()
        canary.rmdir()

    def odd_buffer(self, tmp_path, monkeypatch, **others):
        """A file with a HistoryBuffer that has this, too, in its state."""
        buffer = HistoryBuffer(BUFFER, [1] * 3)
        with monkeypatch.context() as patch:
            patch.setattr(HistoryBuffer, '__getstate__', lambda self: {**vars(self), **others})
            return save(checkpoint(message_hub=buffer), tmp_path / 'odd.pth')

    def test_a_hidden_global_among_the_statistics(self, tmp_path, monkeypatch):
        path = self.odd_buffer(tmp_path, monkeypatch, statistics_methods={'mean': os.system})
        with pytest.raises(CheckpointError, match='system'):
            load_checkpoint(path)

    def test_a_hidden_global_in_place_of_the_values(self, tmp_path, monkeypatch):
        path = self.odd_buffer(tmp_path, monkeypatch, _log_history=os.system)
        with pytest.raises(CheckpointError, match='system'):
            load_checkpoint(path)
        path = self.odd_buffer(tmp_path, monkeypatch, _log_history='text')
        with pytest.raises(CheckpointError, match='HistoryBuffer holds str'):
            load_checkpoint(path)

    def test_statistics_of_the_file_do_not_replace_those_of_the_process(self, tmp_path, monkeypatch):
        path = self.odd_buffer(tmp_path, monkeypatch, statistics_methods={'mean': HistoryBuffer.max}, update=None)
        loaded = load_checkpoint(path)['message_hub']
        assert type(loaded) is HistoryBuffer
        loaded.update(1.0)
        assert HistoryBuffer(BUFFER, [1] * 3).statistics('mean') == sum(BUFFER) / 3

    def test_a_pickle_alone(self, canary, tmp_path):
        path = tmp_path / 'hostile.pth'
        path.write_bytes(pickle.dumps(Call(os.mkdir, str(canary)), protocol=2))
        with pytest.raises(CheckpointError, match='mkdir'):
            load_checkpoint(path)

    @pytest.mark.parametrize('protocol', [3, 4, 5])
    def test_other_protocols(self, protocol, canary, tmp_path):
        path = save(
            checkpoint(optimizer=Call(os.mkdir, str(canary))), tmp_path / 'hostile.pth', pickle_protocol=protocol
        )
        with pytest.raises(CheckpointError, match='--trust-checkpoint'):
            load_checkpoint(path)

    @pytest.mark.parametrize('opcode', [b'(S"x"\nios\nmkdir\n', b'(cos\nmkdir\nS"x"\no', b'\x82\x01'])
    def test_other_opcodes(self, opcode, canary, tmp_path):
        def change(name, content):
            return (
                b'\x80\x02' + opcode.replace(b'"x"', repr(str(canary)).encode()) + b'.'
                if 'data.pkl' in name
                else content
            )

        path = rewrite(save(checkpoint(), tmp_path / 'genuine.pth'), tmp_path / 'hostile.pth', change)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)

    def test_a_state_for_a_function(self, tmp_path):
        """It would change the function for the whole process."""

        def change(name, content):
            return (
                b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.'
                if 'data.pkl' in name
                else content
            )

        path = rewrite(save(checkpoint(), tmp_path / 'genuine.pth'), tmp_path / 'hostile.pth', change)
        with pytest.raises(CheckpointError, match='--trust-checkpoint'):
            load_checkpoint(path)
        assert not vars(torch._utils._rebuild_tensor_v2)

    def test_a_pickle_in_a_tensor_stays_bytes(self, canary, tmp_path):
        content = pickle.dumps(Call(os.mkdir, str(canary)))
        tensor = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        loaded = load_checkpoint(save(dict(state_dict=dict(weight=tensor)), tmp_path / 'odd.pth'))
        assert loaded['state_dict']['weight'].numpy().tobytes() == content

    def test_a_model_as_a_program(self, tmp_path):
        path = str(tmp_path / 'hostile.pth')
        torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), path)
        with pytest.raises(CheckpointError, match=r'TorchScript.*--trust-checkpoint'):
            load_checkpoint(path)

    def test_a_config_that_mmengine_would_run(self, canary, tmp_path):
        content = checkpoint()
        content['meta']['config'] = f'import os\nos.mkdir({str(canary)!r})'
        loaded = load_checkpoint(save(content, tmp_path / 'hostile.pth'))
        assert loaded['meta'] == dict(epoch=1, iter=4)

    def test_sizes_of_a_zip_bomb(self, tmp_path):
        genuine = save(dict(state_dict=dict(weight=torch.zeros(1_000_000))), tmp_path / 'genuine.pth')
        bomb = rewrite(genuine, tmp_path / 'bomb.pth', lambda name, content: content, zipfile.ZIP_DEFLATED)
        assert bomb.stat().st_size < 20_000
        with pytest.raises(CheckpointError, match='compressed'):
            load_checkpoint(bomb)

    def test_records_larger_than_the_file(self, tmp_path):
        genuine = save(checkpoint(), tmp_path / 'genuine.pth')
        content = bytearray(genuine.read_bytes())
        entry = content.rindex(b'PK\x01\x02', 0, content.index(b'data/0', content.index(b'PK\x01\x02')))
        for at in (entry + 20, entry + 24):
            content[at : at + 4] = (1 << 30).to_bytes(4, 'little')
        genuine.write_bytes(content)
        with pytest.raises(CheckpointError, match='larger than the file'):
            load_checkpoint(genuine)

    def test_a_tensor_larger_than_its_storage(self, tmp_path):
        def change(name, content):
            # The two bytes are the shape (2, 3).
            return content.replace(b'K\x02K\x03\x86', b'J\x00\x00\x00\x40K\x03\x86') if 'data.pkl' in name else content

        path = rewrite(save(checkpoint(), tmp_path / 'genuine.pth'), tmp_path / 'hostile.pth', change)
        with pytest.raises(CheckpointError, match='damaged'):
            load_checkpoint(path)

    def test_a_list_that_holds_itself(self, tmp_path):
        endless = [np.float64(1)]
        endless.append(endless)
        loaded = load_checkpoint(save(dict(meta=endless), tmp_path / 'odd.pth'))['meta']
        assert loaded[0] == 1 and loaded[1] is loaded


@pytest.mark.usefixtures('weights_only')
@pytest.mark.parametrize('text, encoding', [('text', 'rot13'), (b'text', 'hex')])
def test_a_pickle_encodes_bytes_and_nothing_else(text, encoding):
    assert types.encode('\xe9', 'latin1') == b'\xe9'
    with pytest.raises(ValueError, match=f"Unsupported global: GLOBAL _codecs.encode.*'{encoding}'"):
        types.encode(text, encoding)


class TestDamaged:
    def test_cut_off(self, tmp_path):
        path = save(checkpoint(), tmp_path / 'cut.pth')
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(CheckpointError, match='cut off'):
            load_checkpoint(path)

    def test_cut_off_in_the_old_format(self, tmp_path):
        path = save(checkpoint(), tmp_path / 'cut.pth', _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(CheckpointError, match='damaged'):
            load_checkpoint(path)

    def test_one_bit(self, tmp_path):
        """torch itself loads other weights without a word."""
        path = save(checkpoint(), tmp_path / 'flipped.pth')
        content = bytearray(path.read_bytes())
        content[content.index(torch.arange(6.0).numpy().tobytes()) + 9] ^= 16
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match='checksum'):
            load_checkpoint(path)

    def test_a_tar_file(self, tmp_path):
        path = tmp_path / 'old.pth'
        with tarfile.open(path, 'w') as archive:
            archive.add(save(checkpoint(), tmp_path / 'storages'), 'storages')
        with pytest.raises(CheckpointError, match='tar file'):
            load_checkpoint(path)

    @pytest.mark.parametrize(
        'content, reason',
        [(b'', 'empty'), (b'\xff\xd8\xff\xe0\x00\x10JFIF\x00', 'xd8'), (b'<!DOCTYPE html>', 'DOCTYP')],
    )
    def test_other_files(self, content, reason, tmp_path):
        path = tmp_path / 'other.pth'
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=reason):
            load_checkpoint(path)

    def test_no_dict(self, tmp_path):
        with pytest.raises(CheckpointError, match='holds a list'):
            load_checkpoint(save([1, 2], tmp_path / 'list.pth'))

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r'none\.pth'):
            load_checkpoint(tmp_path / 'none.pth')


def genuine():
    """All that mmengine and MMDetection put into checkpoints."""
    hub = MessageHub('of a test')
    for value in BUFFER:
        hub.update_scalar('train/loss', value)
    hub.update_info_dict(dict(epoch=1, best_score=np.float64(0.5), classes=('a', 'b'), areas=np.arange(3)))
    return checkpoint(
        message_hub=hub.state_dict(),
        optimizer=dict(state={0: dict(step=torch.tensor(3.0))}, param_groups=[dict(lr=0.1, betas=(0.9, 0.999))]),
        param_schedulers=[dict(last_step=4, _global_step=5)],
        numbers=[np.float32(1.5), np.int64(-3), np.bool_(True), np.complex64(1 + 2j), np.array(2.5)],
        arrays=[np.arange(6).reshape(2, 3).T, np.zeros((0, 4)), np.arange(3, dtype='>i4'), np.array([True, False])],
        tensors=[torch.zeros(2).bfloat16(), torch.tensor(True), torch.nn.Parameter(torch.ones(2)), torch.Size([1])],
    )


@pytest.mark.usefixtures('weights_only')
class TestGenuine:
    @pytest.mark.parametrize('old_format', [False, True], ids=['zip', 'old format'])
    def test_all_types(self, old_format, tmp_path):
        content = genuine()
        loaded = load_checkpoint(save(content, tmp_path / 'genuine.pth', _use_new_zipfile_serialization=not old_format))
        for name in ('numbers', 'arrays'):
            for ours, theirs in zip(loaded[name], content[name], strict=True):
                assert type(ours) is type(theirs) and ours.dtype == theirs.dtype and ours.shape == theirs.shape
                assert np.array_equal(ours, theirs)
        assert all(torch.equal(a, b) for a, b in zip(loaded['tensors'][:3], content['tensors']))
        assert loaded['optimizer'] == content['optimizer'] and loaded['tensors'][3] == torch.Size([1])
        assert type(loaded['state_dict']) is OrderedDict
        hub = MessageHub('another')
        hub.load_state_dict(loaded['message_hub'])
        assert type(hub.get_scalar('train/loss')) is HistoryBuffer
        assert list(hub.get_scalar('train/loss').data[0]) == BUFFER
        assert hub.get_scalar('train/loss').statistics('mean') == sum(BUFFER) / 3
        assert hub.get_info('best_score') == 0.5 and hub.get_info('classes') == ('a', 'b')

    def test_a_whole_message_hub(self, tmp_path):
        """As mmengine before 0.2 saved it."""
        hub = MessageHub('whole')
        hub.update_scalar('train/loss', 0.5)
        loaded = load_checkpoint(save(checkpoint(message_hub=hub), tmp_path / 'genuine.pth'))['message_hub']
        other = MessageHub('loaded')
        other.load_state_dict(loaded)
        assert other.get_scalar('train/loss').current() == 0.5

    def test_what_was_loaded_can_be_saved_and_loaded_again(self, tmp_path):
        once = load_checkpoint(save(genuine(), tmp_path / 'once.pth'))
        twice = load_checkpoint(save(once, tmp_path / 'twice.pth'))
        assert np.array_equal(twice['arrays'][0], once['arrays'][0])
        torch.load(tmp_path / 'twice.pth', weights_only=False)
        assert b'mmext' not in (tmp_path / 'twice.pth').read_bytes()

    def test_numpy_1(self, tmp_path):
        """numpy 2 renamed the module that its pickles name."""

        def change(name, content):
            return content.replace(b'numpy._core', b'numpy.core') if 'data.pkl' in name else content

        path = rewrite(save(genuine(), tmp_path / 'new.pth'), tmp_path / 'genuine.pth', change)
        assert b'numpy.core.multiarray' in path.read_bytes()
        assert load_checkpoint(path)['numbers'][0] == 1.5

    def test_an_open_file(self, tmp_path):
        with open(save(checkpoint(), tmp_path / 'genuine.pth'), 'rb') as file:
            assert load_checkpoint(file)['meta']['iter'] == 4


@pytest.mark.usefixtures('loaders')
class TestAllWaysIn:
    """mmengine's loaders run the pickle; :func:`register_loaders` replaces every one."""

    @pytest.fixture
    def hostile(self, canary, tmp_path):
        return str(save(checkpoint(message_hub=Call(os.mkdir, str(canary))), tmp_path / 'hostile.pth'))

    def test_load_checkpoint(self, hostile):
        register_loaders()
        with pytest.raises(CheckpointError, match='mkdir'):
            mmengine_load(torch.nn.Linear(3, 2), hostile)

    def test_init_cfg(self, hostile):
        register_loaders()
        for prefix in ({}, dict(prefix='backbone')):
            module = BaseModule(init_cfg=dict(type='Pretrained', checkpoint=hostile, **prefix))
            with pytest.raises(CheckpointError, match='mkdir'):
                module.init_weights()

    @pytest.mark.parametrize('resume', [False, True])
    def test_load_from_and_resume(self, hostile, resume, tmp_path):
        register_loaders()
        runner = Runner(
            torch.nn.Linear(3, 2),
            str(tmp_path),
            load_from=hostile,
            resume=resume,
            experiment_name=hostile,
            # A scope would stay for the tests that follow.
            default_scope=None,
        )
        with pytest.raises(CheckpointError, match='mkdir'):
            runner.load_or_resume()

    @pytest.mark.parametrize('scheme', ['https', 'torchvision', 'openmmlab', 'mmcls'])
    def test_downloads(self, scheme, hostile, monkeypatch):
        register_loaders()
        # torchvision is not everywhere.
        monkeypatch.setattr(loading, 'get_torchvision_models', lambda: {'resnet18': 'https://a.org/x.pth'})
        names = {'https': 'a.org/x.pth', 'torchvision': 'resnet18', 'openmmlab': next(iter(get_external_models()))}
        monkeypatch.setattr(loading, '_download', lambda address: Path(hostile))
        with pytest.raises(CheckpointError, match='mkdir'):
            CheckpointLoader.load_checkpoint(f'{scheme}://{names.get(scheme, next(iter(get_mmcls_models())))}')

    def test_no_loader_is_left(self):
        register_loaders()
        assert {loader.__module__ for loader in CheckpointLoader._schemes.values()} == {loading.__name__}

    def test_commands_register(self, hostile):
        for command in ('train', 'test'):
            parse = __import__(f'mmext.cli.{command}', fromlist=['parse_args']).parse_args
            args = parse(['mmext::yolox/yolox_nano_1xb8-9e_shapes.py', *([hostile] if command == 'test' else [])])
            CheckpointLoader._schemes.clear()
            common.load_config(args)
            with pytest.raises(CheckpointError, match='mkdir'):
                CheckpointLoader.load_checkpoint(hostile)

    def test_trust(self, hostile, canary):
        register_loaders(trust=True)
        assert CheckpointLoader.load_checkpoint(hostile)['meta']['iter'] == 4
        assert canary.is_dir()
        canary.rmdir()

    def test_download_keeps_the_file(self, tmp_path, monkeypatch):
        """The cache is torch's, which mmengine uses too."""
        fetched = []

        def fetch(address, path, **_):
            fetched.append(address)
            save(checkpoint(), path)

        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
        monkeypatch.setattr(torch.hub, 'download_url_to_file', fetch)
        register_loaders()
        for _ in range(2):
            assert CheckpointLoader.load_checkpoint('https://a.org/b/x.pth?c=d')['meta']['iter'] == 4
        assert fetched == ['https://a.org/b/x.pth?c=d'] and (tmp_path / 'checkpoints' / 'x.pth').is_file()
