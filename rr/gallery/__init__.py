"""Search a folder of images: `rr embed` writes feature vectors, and `rr retrieve` finds the most similar images.

    images             list the image files in a folder and decode them
    image_arguments    check the images that are passed to a feature extractor
    feature_extractor  a backbone, with the image size, mean and std that it expects
    index_file         a Parquet file of feature vectors, which is reused as an index as long as it is valid
    index_update       compute the vectors of new and changed images, and update the index
    embed              `rr embed`: write the vectors of the images in a folder
    retrieve           `rr retrieve`: search a folder and keep its index up to date
    search_results     the results of a search
    random_pairs       percentiles of scores among those of random pairs
    pair_scorer        the relation head, with the calibration of its logits
    compare            `rr compare`: the probability that two images are views of the same image
    classify           `rr classify`: predict the classes of the images in a folder
    search_page        an HTML page of search results
    map_page           an HTML page with a map of the images
    python_api         the functions and classes for use from Python

To answer quickly, a search does not import numba, FFCV, scikit-learn or `rr.params`. It imports torchvision only if the
backbone comes from torchvision.
"""
