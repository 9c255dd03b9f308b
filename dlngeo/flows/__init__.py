"""Training as flows: gradient flows on any space, training and balancing flows of weights, and where they end."""

from dlngeo.flows import limits
from dlngeo.flows.balancing import BalancingFlow, balancing_flow
from dlngeo.flows.ensemble import FlowEnsemble
from dlngeo.flows.gradient import Flow, gradient_flow
from dlngeo.flows.integrate import FlowStatus
from dlngeo.flows.report import Description, describe
from dlngeo.flows.result import FlowResult
from dlngeo.flows.training import Descent, TrainingFlow, gradient_descent, training_flow

__all__ = [
    "BalancingFlow",
    "Descent",
    "Description",
    "Flow",
    "FlowEnsemble",
    "FlowResult",
    "FlowStatus",
    "TrainingFlow",
    "balancing_flow",
    "describe",
    "gradient_descent",
    "gradient_flow",
    "limits",
    "training_flow",
]
