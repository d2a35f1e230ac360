"""Columns are chosen by their types: those that the catalogue of TensorFlow Datasets says of real sets."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jax_ddpm.data.sources.columns import image_column, label_column
from jax_ddpm.errors import InvalidInput


def features_of(name, folder):
    return tfds.builder(name, data_dir=folder).info.features


@pytest.mark.parametrize(
    ("name", "image", "label"),
    [
        ("cifar10", "image", "label"),
        ("cifar100", "image", "label"),  # beside coarse_label
        ("downsampled_imagenet/64x64", "image", ""),
        ("oxford_iiit_pet", "image", "label"),  # beside the picture of a mask, and species
        ("eurosat/rgb", "image", "label"),
    ],
)
def test_columns_of_the_usual_names_go_before_others(tmp_path, name, image, label):
    features = features_of(name, tmp_path)
    assert image_column(name, features, tfds.features.Image) == image
    assert label_column(name, features, tfds.features.ClassLabel) == label


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("shapes3d", "label_floor_hue, label_wall_hue, label_object_hue, label_scale, label_shape, label_orientation"),
        ("dsprites", "label_shape, label_scale, label_orientation, label_x_position, label_y_position"),
        ("smallnorb", "label_category, instance, label_elevation, label_azimuth, label_lighting"),
    ],
)
def test_several_columns_of_classes_are_named_and_each_can_be_asked_for(tmp_path, name, columns):
    features = features_of(name, tmp_path)
    with pytest.raises(InvalidInput, match=f"data set '{name}' has several label columns, {columns}: say which one is meant"):
        label_column(name, features, tfds.features.ClassLabel)
    for column in columns.split(", "):
        assert label_column(name, features, tfds.features.ClassLabel, column) == column


@pytest.mark.parametrize(("asked", "near"), [("labels", " Did you mean 'label'"), ("image", "")])
def test_a_column_that_is_not_there_or_of_another_kind_is_refused(tmp_path, asked, near):
    features = features_of("cifar10", tmp_path)
    with pytest.raises(InvalidInput, match=f"unknown label column of cifar10 '{asked}': expected one of label.{near}"):
        label_column("cifar10", features, tfds.features.ClassLabel, asked)


def test_a_set_without_images_is_told(tmp_path):
    features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "size": tfds.features.Scalar(np.int64)})
    with pytest.raises(InvalidInput, match="data set 'words' has no column of images: its columns are text, size"):
        image_column("words", features, tfds.features.Image)
