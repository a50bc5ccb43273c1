"""Which pod a request of kubelet's is for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRef:
    """A pod as the cluster's API knows it (podInfoOnMount)."""

    namespace: str
    name: str
    uid: str
