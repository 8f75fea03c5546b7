"""mifad_lite: MIFAD-Net, whole and compact. Each file is one idea; the book walks through them in order."""

from . import interrupt  # noqa: F401, the imports below take seconds
from .attention import AttentionModule, ChannelAttention, SpatialAttention
from .augment import Augmentation, augment
from .baseline import ResNet18, ResNetConfig
from .checkpoint import load_network, save_network
from .columns import Column
from .data import CLASSES, DataError, FaceData, FaceSet, load_fer2013
from .fast import accelerate
from .fusion import InteractiveFusion
from .losses import AngularDistanceLoss, CenterLoss, CosineClassifier, IslandLoss
from .model import PRESETS, MIFADConfig, MIFADNet
from .synthetic import synthetic_data, synthetic_faces
from .train import PROFILES, TrainConfig, fit, profile

__all__ = [
    "CLASSES",
    "PRESETS",
    "PROFILES",
    "AngularDistanceLoss",
    "AttentionModule",
    "Augmentation",
    "CenterLoss",
    "ChannelAttention",
    "Column",
    "CosineClassifier",
    "DataError",
    "FaceData",
    "FaceSet",
    "InteractiveFusion",
    "IslandLoss",
    "MIFADConfig",
    "MIFADNet",
    "ResNet18",
    "ResNetConfig",
    "SpatialAttention",
    "TrainConfig",
    "accelerate",
    "augment",
    "fit",
    "load_fer2013",
    "load_network",
    "profile",
    "save_network",
    "synthetic_data",
    "synthetic_faces",
]
