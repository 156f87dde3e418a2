"""Settings: read, overridden, refused, each with one clear line."""

import re
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import BaseModel

from proxy.chains.solana import Wallet, WalletError
from proxy.settings import NETWORK_IDS, Address, Settings, SettingsError, default_toml
from proxy.wallets import load_wallets, low_balance, wallet_files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "autopay.toml"


def load(file: Path, text: str, **environ: str) -> Settings:
    file.write_text(text)
    return Settings.load(file, environ)


def problems(file: Path, text: str, **environ: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(file, text, **environ)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert all("\n" not in line for line in caught.value.problems)
    return caught.value.problems


def test_without_any_file_the_defaults_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("proxy.paths.user_config_dir", lambda: tmp_path)
    settings = Settings.load(environ={"AUTOPAY_DATA_DIR": str(tmp_path)})
    assert settings.listen.proxy == Address("127.0.0.1", 8402)
    assert settings.wallet_path == tmp_path / "wallet.json"
    assert settings.rpc_urls == {NETWORK_IDS["devnet"]: "https://api.devnet.solana.com"}
    assert (settings.policy.per_call, settings.policy.daily) == (50_000, 1_000_000)
    assert settings.limits.replay_disk_bytes == 100 * 2**20
    assert settings.timeouts.connect == 10.0


def test_wallets_have_names_and_files_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "autopay.toml"
    file.write_text(
        f'data_dir = "{tmp_path}"\n[wallet]\nlow_balance = "2"\n[wallets.research]\n'
        f'[wallets.ops]\npath = "{tmp_path}/ops.json"\nlow_balance = "0.5"\n'
    )
    settings = Settings.load(file, {})
    assert wallet_files(settings) == {
        "default": tmp_path / "wallet.json",
        "research": tmp_path / "wallet-research.json",
        "ops": tmp_path / "ops.json",
    }
    names = ("default", "research", "ops")
    assert [low_balance(settings, name) for name in names] == [2_000_000, 2_000_000, 500_000]
    assert load_wallets(settings) == {}
    Wallet.create(tmp_path / "ops.json")
    (tmp_path / "ops.json").rename(tmp_path / "wallet.json")
    assert load_wallets(settings).keys() == {"default"}
    Wallet.load(tmp_path / "wallet.json").save(tmp_path / "ops.json")
    with pytest.raises(WalletError, match="the wallets default and ops are the same key"):
        load_wallets(settings)
    for name, why in (("default", "is the name of the one under"), ("A b", "must be named by")):
        file.write_text(f'[wallets."{name}"]\n')
        with pytest.raises(SettingsError, match=why):
            Settings.load(file, {})


def test_the_file_is_found_here_then_in_the_configuration_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, config = tmp_path / "here", tmp_path / "config"
    for directory in (here, config):
        directory.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("proxy.paths.user_config_dir", lambda: config)
    (config / "autopay.toml").write_text('log_level = "error"')
    assert Settings.load(environ={}).log_level == "error"
    (here / "autopay.toml").write_text('log_level = "DEBUG"')
    assert Settings.load(environ={}).log_level == "debug"
    with pytest.raises(SettingsError, match=r"missing\.toml: cannot be read: No such file"):
        Settings.load(tmp_path / "missing.toml", {})


def test_the_environment_overrides_the_file(file: Path) -> None:
    settings = load(
        file,
        '[listen]\nproxy = "0.0.0.0:1"\nmounts = "[::1]:2"\n[policy]\ndaily = 3\n',
        AUTOPAY_LISTEN__PROXY="localhost:9000",
        AUTOPAY_POLICY__PER_CALL="0.000001",
        AUTOPAY_PROVIDERS__WEATHER__UPSTREAM="https://api.example/v1/",
        AUTOPAY_PROVIDERS__WEATHER__MEMO="false",
        AUTOPAY_NETWORKS__MAINNET__RPC_URL="https://rpc.example/?api-key=K",
        AUTOPAY_LOG_LEVEL="",
        DATABASE_URL="postgresql://a@b/c",
        HOME="/nowhere",
    )
    assert settings.listen.proxy == Address("localhost", 9000)
    assert settings.listen.mounts == Address("::1", 2)
    assert str(settings.listen.mounts) == "[::1]:2"
    assert (settings.policy.per_call, settings.policy.daily) == (1, 3_000_000)
    weather = settings.providers["weather"]
    assert (weather.upstream, weather.memo) == ("https://api.example/v1", False)
    assert list(settings.rpc_urls) == [NETWORK_IDS["mainnet"]]
    assert settings.log_level == "info", "an empty variable is one that is not set"
    assert settings.database_url == "postgresql://a@b/c"
    own = load(file, "", DATABASE_URL="postgresql://a", AUTOPAY_DATABASE_URL="postgresql://b")
    assert own.database_url == "postgresql://b"


@pytest.mark.parametrize(
    ("written", "micros"),
    [("0.1", 100_000), ('"0.1"', 100_000), ("0.30", 300_000), ("2", 2_000_000), ("1e-6", 1)],
)
def test_money_is_exact_however_it_is_written(file: Path, written: str, micros: int) -> None:
    assert load(file, f"[policy]\nper_call = {written}").policy.per_call == micros


@pytest.mark.parametrize(
    ("written", "size"), [("1024", 1024), ('"64KiB"', 65536), ('"1 MiB"', 2**20), ('"2kB"', 2000)]
)
def test_sizes(file: Path, written: str, size: int) -> None:
    assert load(file, f"[limits]\nheader_bytes = {written}").limits.header_bytes == size


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("colour = 1", "colour is not a setting; known here: database_url"),
        ("log_levl = 1", "log_levl is not a setting; did you mean log_level (AUTOPAY_LOG_LEVEL)?"),
        ("[listen]\nproxi = 1", "did you mean listen.proxy (AUTOPAY_LISTEN__PROXY)?"),
        ("per_call = 1", "per_call is not a setting; did you mean policy.per_call"),
        (
            '[networks.mainet]\nrpc_url = "http://a"',
            "networks.mainet is not a setting; did you mean networks.mainnet",
        ),
        (
            '[providers.w]\nurl = 1\nupstream = "http://a"',
            "providers.w.url is not a setting; known here: upstream, memo",
        ),
        ("[providers.w]", "providers.w.upstream is missing"),
        ('[providers.W_1]\nupstream = "http://a"', "providers.W_1 must be named by a-z, 0-9"),
        ("listen = 3", "listen = 3 must be a table"),
        ('[listen]\nproxy = "8402"', 'listen.proxy = "8402" must be "host:port", like'),
        ('[listen]\nproxy = "h:65536"', 'listen.proxy = "h:65536" must be "host:port", like'),
        ('[limits]\nheader_bytes = "64 pears"', '"64 pears" must be a whole number of bytes'),
        ("[limits]\nheader_bytes = 0", "limits.header_bytes = 0 must be more than 0"),
        ("[limits]\nconnections = 1.5", 'limits.connections = "1.5" must be a whole number'),
        ('[timeouts]\nidle = "long"', 'timeouts.idle = "long" must be a number'),
        ("[timeouts]\nidle = true", "timeouts.idle = true must be a number"),
        ("[timeouts]\nidle = inf", "must be a number"),
        ("[score]\nsuccess = 0.5", "and price that add up to 1.15: they must add up to 1"),
        ("[score]\nquality = 1.2", 'score.quality = "1.2" must be at most 1'),
        ('[policy]\ndaily = "-1"', 'policy.daily = "-1" must be an amount in USD'),
        ("[policy]\ndaily = 0.0000001", "must be an amount in USD with at most 6 decimals"),
        ("[policy]\ndaily = true", "policy.daily = true must be an amount in USD"),
        (
            'log_level = "loud"',
            "log_level = \"loud\" must be 'debug', 'info', 'warning' or 'error'",
        ),
        ('[tls]\nca_file = "/nowhere"', 'tls.ca_file = "/nowhere" must be an existing file'),
        ('upstream_proxy = "http://a/b"', 'upstream_proxy = "http://a/…" must be like "http://us'),
        ('upstream_proxy = "socks5://a:1"', "must be like"),
        ('no_upstream_proxy = ["*.*"]', 'must be a host, like "api.example.com", or "*.example'),
        ('no_upstream_proxy = ["10.0.0.1/8"]', 'must be a host, "*.example.com" or a network'),
        ('[providers.w]\nupstream = "ftp://a"', "must be an http:// or https:// URL"),
        ('[providers.w]\nupstream = "http://a?b"', "must have no user, query or fragment"),
        ("a = = 1", "is not valid TOML"),
    ],
)
def test_a_bad_setting_is_one_line_with_its_origin(file: Path, text: str, line: str) -> None:
    (told,) = problems(file, text)
    assert told.startswith(f"{file}: ")
    assert line in told


def test_each_bad_setting_has_its_line_and_names_its_variable(file: Path) -> None:
    told = problems(
        file,
        '[limits]\nheader_bytes = "x"\n[breaker]\nfailures = "few"\n',
        AUTOPAY_BREAKER__FAILURES="many",
        AUTOPAY_POLICY_DAILY="1",
        AUTOPAY_LISTEN="here",
    )
    assert len(told) == 4
    assert any(line.startswith(f"{file}: limits.header_bytes") for line in told)
    assert 'AUTOPAY_BREAKER__FAILURES: breaker.failures = "many" must be a whole number' in told
    assert any("AUTOPAY_POLICY_DAILY" in line and "AUTOPAY_POLICY__DAILY" in line for line in told)
    assert 'AUTOPAY_LISTEN: listen = "here" must be a table' in told


@pytest.mark.parametrize(
    "text",
    [
        'database_url = "mysql://u:SECRET@host/d"',
        'database_url = "SECRET"',
        'upstream_proxy = "https://u:SECRET@proxy.example"',
        'upstream_proxy = "u:SECRET@proxy.example:3128"',
        'upstream_proxy = "http://u:SECRET@proxy.example:99999"',
        '[networks.mainnet]\nrpc_url = "wss://rpc.example/?api-key=SECRET"',
        '[networks.mainnet]\nrpc_url = "https://rpc.example/SE CRET"',
        '[networks]\nmainnet = "https://rpc.example/SECRET"',
        '[networks]\nmainnet.rpc_url = {a = "SECRET"}',
        '[providers.w]\nupstream = "https://user:SECRET@api.example"',
    ],
)
def test_secrets_are_never_shown(file: Path, text: str) -> None:
    assert not re.search("SECRET|SE CRET", "".join(problems(file, text)))


def test_secrets_are_not_in_the_repr_either(file: Path) -> None:
    settings = load(
        file,
        'database_url = "postgresql://u:SECRET@h/d"\n'
        'upstream_proxy = "http://u:SECRET@h:1"\n'
        '[networks.mainnet]\nrpc_url = "https://a/SECRET"',
    )
    assert "SECRET" not in repr(settings)


def test_the_upstream_proxy_and_what_goes_without_it(file: Path) -> None:
    bypass = ("*.internal", "10.0.0.0/8", "a.example")
    text = 'upstream_proxy = "http://u:p@h:1"\nno_upstream_proxy = '
    settings = load(file, text + '["*.Internal", "10.0.0.0/8", "a.example"]')
    assert (settings.upstream_proxy, settings.no_upstream_proxy) == ("http://u:p@h:1", bypass)
    variable = "*.internal, 10.0.0.0/8,a.example,"
    assert load(file, "", AUTOPAY_NO_UPSTREAM_PROXY=variable).no_upstream_proxy == bypass
    assert load(file, 'upstream_proxy = ""').upstream_proxy == ""


def test_settings_cannot_be_changed(file: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(file, "").listen.proxy = Address("h", 1)


def test_the_default_file_changes_nothing_and_explains_every_setting(file: Path) -> None:
    assert load(file, default_toml()) == load(file, "")

    uncommented = re.sub(r"^#(?=[a-z_]+ = |\[)", "", default_toml(), flags=re.M)
    examples = (
        r"^(data_dir|path|ca_file|key_file) = .*\n|^\[networks.mainnet\]\n.*\n"
        r"|^\[\[?(providers|wallets|intents).*\n((?!\[).*\n)*"
    )
    assert load(file, re.sub(examples, "", uncommented, flags=re.M)) == load(file, "")

    explained = tomllib.loads(uncommented, parse_float=Decimal)
    assert set(explained) == set(Settings.model_fields)
    for section, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names = {one.alias or name for name, one in kind.model_fields.items()}
            assert set(explained[section]) == names, section


def test_second_opinions_come_from_other_hosts(file: Path) -> None:
    def text(*urls: str) -> str:
        return (
            f'[networks.devnet]\nrpc_url = "https://a.example/KEY"\nverify_rpc_urls = {list(urls)}'
        )

    settings = load(file, text("https://b.example", "https://c.example/KEY"))
    assert len(settings.networks["devnet"].verify_rpc_urls) == 2
    for urls in (["https://A.example/OTHER"], ["https://b.example", "https://b.example/2"]):
        with pytest.raises(SettingsError, match="another host"):
            load(file, text(*urls))


def test_what_is_expected_of_a_provider_is_checked_when_it_is_read(
    file: Path, tmp_path: Path
) -> None:
    schema = tmp_path / "weather.json"
    schema.write_text('{"required": ["price"]}')

    def expecting(*lines: str) -> Settings:
        table = '[providers.weather]\nupstream = "https://a.example"\n[providers.weather.expect]\n'
        return load(file, table + "\n".join(lines))

    for inline in (f'schema = "{schema}"', 'schema = \'{"required": ["price"]}\''):
        expected = expecting('content_type = "text/*"', inline, 'max_bytes = "2KiB"')
        schema_held = expected.providers["weather"].expect.expectation
        assert schema_held is not None and schema_held.schema is not None
        assert (schema_held.content_type, schema_held.max_bytes) == ("text/*", 2048)
        assert not schema_held.schema.is_valid({}) and schema_held.schema.is_valid({"price": 1})
    assert expecting('max_bytes = "2KiB"').providers["weather"].expect.expectation is None
    for wrong, why in (
        ('schema = \'{"type": "objekt"}\'', "expect.schema = .* is no JSON Schema: at /type: "),
        ('schema = "nowhere.json"', "expect.schema = .* must be a JSON Schema, or a readable file"),
        ('content_type = "json"', "expect.content_type = .* must be like"),
        ('fields = ["a..b"]', "expect.fields = .* must be a list of dotted paths"),
        ("min_bytes = -1", "expect.min_bytes = -1 must be"),
        ("max_seconds = 0", "expect.max_seconds = 0 must be more than 0"),
        ("min_bytes = 20\nmax_bytes = 10", "has a min_bytes above its max_bytes"),
        ("shema = 1", "did you mean providers.weather.expect.schema"),
    ):
        with pytest.raises(SettingsError, match=why) as error:
            expecting(wrong)
        assert "\n" not in str(error.value)


def test_an_intent_is_checked_when_it_is_read(file: Path) -> None:
    def wanting(*lines: str) -> Settings:
        return load(file, "\n".join(("[intents.quote]", *lines)))

    text = re.search(r"^#\[intents\.quote\]\n(#.*\n)+", default_toml(), re.M)
    assert text is not None
    quote = load(file, re.sub("^#", "", text[0], flags=re.M)).intents["quote"].named("quote")
    assert [one.origin.host for one in quote.candidates] == ["one.example", "two.example"]
    assert (quote.total, quote.candidates[0].max_price) == (100_000, 10_000)
    assert quote.candidates[0].expect is None and quote.candidates[1].expect is not None
    url = "https://a.example/"
    for wrong, why in (
        ("candidates = []", "candidates: there must be 1 to 50"),
        ('candidates = [{ url = "ftp://a.example/" }]', "candidates.1.url: must be an http"),
        (f'candidates = [{{ url = "{url}", headers = {{ Host = "secret" }} }}]', "'Host' cannot"),
        (f'candidates = [{{ url = "{url}" }}]\npolicy = {{ daily = "1" }}', "policy.daily: an int"),
        (f'candidates = [{{ url = "{url}" }}]\nmax_attempts = 11', "max_attempts: must be 1 to 10"),
        (f'candidates = [{{ url = "{url}", prize = 1 }}]', "prize is not a setting"),
    ):
        with pytest.raises(SettingsError, match=why) as error:
            wanting(wrong)
        assert "secret" not in str(error.value) and "\n" not in str(error.value)
