"""Optimizers and learning rate schedules, under torch's names. The base is :mod:`tracegrad.optim.optimizer`."""

from tracegrad.optim import lr_scheduler
from tracegrad.optim.adadelta import Adadelta
from tracegrad.optim.adagrad import Adagrad
from tracegrad.optim.adam import Adam, AdamW
from tracegrad.optim.adam_variants import Adamax, NAdam, RAdam
from tracegrad.optim.lbfgs import LBFGS
from tracegrad.optim.optimizer import Optimizer
from tracegrad.optim.rmsprop import RMSprop
from tracegrad.optim.sgd import SGD

__all__ = [
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "lr_scheduler",
]
