"""The one exception of the local deployment."""


class LocalDeployError(Exception):
    """What a person has to know and can act on, as one sentence; shown without a stack trace."""
