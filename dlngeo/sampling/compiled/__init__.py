"""Steps of chains, compiled; see :mod:`dlngeo.compiled`."""
