import pytest

from policies.networks import canonical_network
from proxy.x402.networks import normalise


@pytest.mark.parametrize(
    "name",
    ["solana", "solana-mainnet", "solana-mainnet-beta", "Solana-Devnet", "solana-testnet"],
)
def test_policies_and_the_wire_mean_the_same_network(name: str) -> None:
    assert canonical_network(name) == normalise(name)
